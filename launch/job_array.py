"""Runs a sweep on SLURM: one job array over the runs that wait, by their indices in the sweep's list. launch/array_task.py is what a task runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from launch.hardware import environment
from launch.hosts import Hosts
from launch.targets import slurm
from launch.targets.slurm import INDEX, Job
from neo_jax.config import ConfigError
from neo_jax.exit_codes import DONE, FAILED
from neo_jax.sweeps.file import Sweep
from neo_jax.sweeps.folder import FAILED as STATE_FAILED
from neo_jax.sweeps.folder import QUEUED, RUNNING, WAITING, Listed, SweepFolder
from neo_jax.sweeps.records import Records
from neo_jax.sweeps.slurm import SlurmError, ask, job_name, signal_tasks

OURS = ("array", "job-name", "output", "error", "signal", "requeue", "no-requeue", "ntasks-per-node", "chdir")
POLL_SECONDS = 1.0
AGAIN_SECONDS = 10.0  # between two SIGTERM to a task: one that comes before its processes have started reaches nobody
END_SECONDS = 60.0  # that SLURM has to end tasks that it was told to kill


def submit(
    sweep: Sweep, folder: SweepFolder, parallel: int, devices: int, grace_seconds: int, hosts: Hosts | None, options: Sequence[str]
) -> int:
    """Submits the runs that wait, none that SLURM holds, as one job array.

    Args:
      sweep: the file, without a rule.
      folder: of the sweep, whose lock the caller holds.
      parallel: tasks at once.
      devices: virtual CPU devices of each process; 0: those that there are.
      grace_seconds: before the time limit, SIGTERM comes.
      hosts: nodes of each run, with their GPUs; None: one node, without.
      options: further ones of sbatch, such as "partition=gpu".

    Returns:
      DONE, or FAILED if any run has failed.

    Raises:
      ConfigError: options that cannot be used, or sbatch refuses the job.
      SlurmError: SLURM does not answer.
    """
    _check(options)
    recorded, states = Records(sweep.records, sweep.name), folder.states()
    chosen = {run.name for run in sweep.runs if run.name not in recorded}
    runs = [run for run in folder.listed() if run.name in chosen]
    waiting = [run for run in runs if states[run.name].status == WAITING]
    code = FAILED if any(states[run.name].status == STATE_FAILED for run in runs) else DONE
    if not waiting:
        _say("no run is left to submit")
        return code
    text = script(sweep, folder, waiting, parallel, devices, grace_seconds, hosts, options)
    for run in waiting:
        if states[run.name].task:
            folder.record(run, "lost", task=states[run.name].task)
    (folder.path / "logs").mkdir(exist_ok=True)
    try:
        job = ask("sbatch", "--parsable", text=text).strip().partition(";")[0]
    except SlurmError as error:
        raise ConfigError([str(error)]) from None
    for run in waiting:
        folder.record(run, "submitted", task=f"{job}_{run.index}")
    _say(f"job array {job}: {len(waiting)} runs, {parallel} at once")
    return code


def stop(folder: SweepFolder, grace_seconds: float) -> bool:
    """Takes back what is queued, and ends what runs: SIGTERM, and after the grace a kill. Waits until SLURM holds no task of the sweep any more.

    Returns:
      Whether there was one.

    Raises:
      SlurmError: SLURM does not answer.
      TimeoutError: SLURM still holds tasks.
    """
    listed = {run.name: run for run in folder.listed()}
    held = _held(folder)
    if not held:
        return False
    for name, (task, _) in held.items():
        folder.record(listed[name], "stopping", task=task)
    begin, signalled = time.monotonic(), -AGAIN_SECONDS
    killed = 0.0
    while held:
        now = time.monotonic()
        tasks = [task for task, _ in held.values()]
        if killed and now > killed + END_SECONDS:
            raise TimeoutError(f"SLURM still holds {', '.join(tasks)}, {END_SECONDS:.0f} s after it was told to kill them: see squeue")
        signal_tasks([task for task, status in held.values() if status == QUEUED], "--state=PENDING")
        running = [task for task, status in held.values() if status == RUNNING]
        if now > begin + grace_seconds and not killed:
            killed = now
            signal_tasks(tasks)
        elif now > signalled + AGAIN_SECONDS and running:
            signalled = now
            signal_tasks(running, "--signal=TERM", "--state=RUNNING")
        time.sleep(POLL_SECONDS)
        held = _held(folder)
    return True


def refuse_if_held(folder: SweepFolder) -> None:
    """Raises ConfigError if SLURM holds tasks of a sweep, which must not be launched a second time."""
    if held := _held(folder):
        tasks = ", ".join(task for task, _ in held.values())
        raise ConfigError(
            [f"{folder.path}: {len(held)} runs are queued or running on SLURM ({tasks}): wait for them, or end them with stop"]
        )


def _held(folder: SweepFolder) -> dict[str, tuple[str, str]]:
    """Returns task and status of the runs that SLURM holds, by name."""
    return {name: (state.task, state.status) for name, state in folder.states().items() if state.task and state.status in (QUEUED, RUNNING)}


def _check(options: Sequence[str]) -> None:
    if problems := [f"--sbatch={each}: the sweep sets it itself: leave it out" for each in options if each.partition("=")[0] in OURS]:
        raise ConfigError(problems)


def script(
    sweep: Sweep,
    folder: SweepFolder,
    waiting: Sequence[Listed],
    parallel: int,
    devices: int,
    grace_seconds: int,
    hosts: Hosts | None,
    options: Sequence[str],
) -> str:
    path = str(folder.path.absolute())
    flags = [f"--folder={path}", f"--module={sweep.command}", f"--index={INDEX}", *([f"--devices={devices}"] if devices else [])]
    return slurm.script(
        Job(
            command=[sys.executable, "-m", "launch.array_task", *flags],
            name=job_name(sweep.name),
            nodes=hosts.count if hosts else 1,
            gpus_per_node=hosts.chips if hosts else 0,
            exclusive=False,  # small runs share a node
            signal_seconds=grace_seconds,
            array=f"{_ranges([run.index for run in waiting])}%{parallel}",
            log=f"{path}/logs/job-%A_%a.log",
            options=options,
            environment=environment(hosts.chip) if hosts else {},
        )
    )


def _ranges(indices: Sequence[int]) -> str:
    """Returns ascending indices as sbatch reads them: [3, 5, 6, 7] is "3,5-7"."""
    spans: list[tuple[int, int]] = []
    for index in indices:
        if spans and spans[-1][1] == index - 1:
            spans[-1] = (spans[-1][0], index)
        else:
            spans.append((index, index))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _say(sentence: str) -> None:
    print(f"sweep: {sentence}", file=sys.stderr, flush=True)
