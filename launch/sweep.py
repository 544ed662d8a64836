"""Runs many settings of one configuration, and compares them: python -m launch.sweep run configs/sweeps/FILE.py --parallel=2.

`--help` lists actions, flags and exit codes. docs/sweeps.md describes sweep files.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence

from launch.kubernetes import ClusterError
from launch.sweep_flags import Flags
from launch.sweep_run import launch_runs
from launch.sweep_stop import stop_runs
from neo_jax.config import ConfigError
from neo_jax.config.flags import Command, read_flags
from neo_jax.exit_codes import CONFIGURATION, DONE, FAILED, PREEMPTED, TRY_AGAIN
from neo_jax.sweeps.file import Sweep, read_sweep
from neo_jax.sweeps.folder import FAILED as STATE_FAILED
from neo_jax.sweeps.folder import Listed, SweepFolder
from neo_jax.sweeps.outcomes import Outcome, outcomes
from neo_jax.sweeps.records import Records, record_finished
from neo_jax.sweeps.searcher import with_listed
from neo_jax.sweeps.slurm import SlurmError

ACTIONS = ("run", "status", "results", "stop", "retry")
COMMAND = Command(
    "launch.sweep",
    "Runs many settings of one configuration, and compares them. run: launches what has not ended; the same command goes on after a kill. On SLURM "
    "it submits a job array; on Kubernetes each run is a JobSet. status: a line a run. results: a table over settings, with means over seeds. "
    "stop: ends the launcher and its runs, which save first. retry: lets the next run launch those that failed.",
    "run configs/sweeps/learning_rate.py --parallel=2",
    {
        DONE: "done: all runs have finished or were ended by the rule; on SLURM: they are submitted",
        FAILED: "at least one run failed: status says why",
        PREEMPTED: "stopped by a signal with everything saved: the same command continues",
        TRY_AGAIN: "SLURM or Kubernetes does not answer: the same command may succeed",
        CONFIGURATION: "a command line or a sweep file that cannot be used, or sbatch refuses the job",
    },
    "ACTION FILE",
)


def main(arguments: Sequence[str]) -> int:
    try:
        flags, operands = read_flags(Flags, arguments, COMMAND)
        if len(operands) != 2 or operands[0] not in ACTIONS:
            raise ConfigError(
                [f"{' '.join(operands) or 'nothing'}: must be one of {', '.join(ACTIONS)} and a sweep file: write {COMMAND.example}"]
            )
        action, file = operands
        sweep = read_sweep(file, pathlib.Path(flags.folder))
        folder = SweepFolder(pathlib.Path(flags.folder) / sweep.name)
        sweep = with_listed(sweep, folder)
        return {"run": _run, "status": _status, "results": _results, "stop": stop_runs, "retry": _retry}[action](sweep, folder, flags)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIGURATION
    except (SlurmError, ClusterError) as error:
        print(error, file=sys.stderr)
        return TRY_AGAIN


def _run(sweep: Sweep, folder: SweepFolder, flags: Flags) -> int:
    code = launch_runs(sweep, folder, flags)
    if not flags.dry_run:
        _print_status(sweep, folder)
    return code


def _status(sweep: Sweep, folder: SweepFolder, flags: Flags) -> int:
    record_finished(sweep, folder)
    _print_status(sweep, folder)
    known = {run.name for run in folder.listed()}
    if new := sum(run.name not in known for run in sweep.runs):
        print(f"{new} new in the file")
    return DONE


def _results(sweep: Sweep, folder: SweepFolder, flags: Flags) -> int:
    from data_pipelines.storage import write_whole
    from neo_jax.sweeps import page, table
    from neo_jax.sweeps.outcomes import as_csv

    runs = _outcomes(sweep, folder)
    of_file = {run.name: json.dumps(run.configuration) for run in sweep.runs}

    def configuration(name: str) -> str:
        return of_file[name] if name in of_file else folder.configuration(name).read_text()

    print(table.results_table(runs))
    for problem in [problem for run in runs for problem in run.problems]:
        print(problem, file=sys.stderr)
    for path, contents in (
        (flags.csv, as_csv),
        (flags.html, lambda runs: page.page(sweep, runs, configuration)),
    ):
        if path:
            pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(pathlib.Path(path), contents(runs))
            print(pathlib.Path(path).absolute())
    return DONE


def _retry(sweep: Sweep, folder: SweepFolder, flags: Flags) -> int:
    if not folder.listed():
        raise ConfigError([f"{folder.path}: no run of {sweep.name} has been launched there, so none can have failed"])
    states = folder.states()
    failed: list[Listed] = [run for run in folder.listed() if states[run.name].status == STATE_FAILED]
    for run in failed:
        folder.record(run, "retry")
        print(f"run {run.index} ({run.name}) will be launched again from its last checkpoint; it had failed: {states[run.name].reason}")
    print(f"{len(failed)} to launch again: python -m launch.sweep run ..." if failed else "no run has failed")
    return DONE


def _outcomes(sweep: Sweep, folder: SweepFolder) -> list[Outcome]:
    """Returns what the runs in the list of a sweep have reached, and those of its file that are recorded."""
    records, listed = Records(sweep.records, sweep.name), folder.listed()
    known = {run.name for run in listed}
    unlisted = [run for run in sweep.runs if run.name in records and run.name not in known]
    runs = listed + [Listed(index, run.name, run.settings) for index, run in enumerate(unlisted, len(listed))]
    if not runs:
        raise ConfigError([f"{folder.path}: no run of {sweep.name} has been launched there: write {COMMAND.example}, or set --folder"])
    found = {each.run.name: each for each in outcomes(folder, [run for run in listed if run.name not in records])}
    return [found[run.name] if run.name in found else records.outcome(run) for run in runs]


def _print_status(sweep: Sweep, folder: SweepFolder) -> None:
    from neo_jax.sweeps import table

    print(table.status_table(_outcomes(sweep, folder)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
