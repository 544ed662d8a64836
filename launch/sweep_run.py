"""The action `run` of launch.sweep: launches what has not ended, or shows what would be launched."""

from __future__ import annotations

from launch import job_array
from launch.driver import Driver
from launch.hosts import Hosts, find_hosts
from launch.jobset_run import TARGET as JOBSET
from launch.jobset_run import check_mount, jobset_name, jobset_runs
from launch.kubernetes import check_kubectl
from launch.sweep_flags import Flags
from launch.work import local_work
from neo_jax.config import ConfigError
from neo_jax.exit_codes import DONE
from neo_jax.sweeps.file import Sweep, written
from neo_jax.sweeps.folder import WAITING, Listed, SweepFolder
from neo_jax.sweeps.records import Records, record_finished
from neo_jax.sweeps.search import check_installed


def launch_runs(sweep: Sweep, folder: SweepFolder, flags: Flags) -> int:
    """Launches the runs of a sweep; returns the exit code of the command.

    Raises:
      ConfigError: flags, or a sweep, with which this cannot be done.
      SlurmError, ClusterError: SLURM or Kubernetes does not answer.
    """
    hosts = _slurm_hosts(sweep, flags) if flags.target == "slurm" else None
    jobsets = jobset_runs(sweep, folder, flags.hardware, flags.image, flags.volume, flags.grace_seconds) if flags.target == JOBSET else None
    if sweep.search and flags.target == "slurm":
        raise ConfigError([f"{sweep.name}: SEARCH chooses settings as results come, which needs --target=local or jobset"])
    if flags.dry_run:
        waiting = _list(sweep, folder)
        if waiting and flags.target == "slurm":
            print(job_array.script(sweep, folder, waiting, flags.parallel, flags.devices, flags.grace_seconds, hosts, flags.sbatch), end="")
        elif waiting and jobsets:
            print(jobsets.manifest(waiting[0]), end="")
        if sweep.search:
            print(f"{max(0, sweep.search.trials - len(sweep.runs))} more, which the search chooses as results come")
        return DONE
    if sweep.search:
        check_installed()
    if jobsets:
        check_mount()
        check_kubectl()
    else:
        refuse_if_left(folder)
    with folder.lock():
        folder.add(sweep.runs)
        record_finished(sweep, folder)
        if flags.target == "slurm":
            return job_array.submit(sweep, folder, flags.parallel, flags.devices, flags.grace_seconds, hosts, flags.sbatch)
        job_array.refuse_if_held(folder)
        if jobsets:
            return Driver(sweep, folder, flags.parallel, jobsets, JOBSET).run()
        work = local_work(sweep, folder, flags.processes, flags.devices, flags.grace_seconds)
        return Driver(sweep, folder, flags.parallel, work).run()


def refuse_if_left(folder: SweepFolder) -> None:
    """Raises ConfigError if runs may still go on on Kubernetes, though no launcher watches them."""
    if folder.driver() is None and (left := folder.left()):
        names = ", ".join(jobset_name(run) for run in left)
        raise ConfigError(
            [
                f"{folder.path}: runs were left on Kubernetes ({names}): go on with run --target=jobset, or end them with stop --target=jobset"
            ]
        )


def _slurm_hosts(sweep: Sweep, flags: Flags) -> Hosts | None:
    if sweep.rule:
        raise ConfigError(
            [
                f"{sweep.name}: RULE ends runs early by comparing them as they go, which needs --target=local or jobset: take it out for SLURM"
            ]
        )
    hosts = find_hosts(flags.hardware) if flags.hardware else None
    if hosts and hosts.is_tpu:
        raise ConfigError([f"--hardware={flags.hardware}: TPUs have no SLURM: use --target=jobset, or leave it out"])
    return hosts


def _list(sweep: Sweep, folder: SweepFolder) -> list[Listed]:
    """Prints a line for each run of the file; returns those that `run` would launch, with their indices."""
    listed, states, recorded = {run.name: run for run in folder.listed()}, folder.states(), Records(sweep.records, sweep.name)
    waiting, new = [], len(listed)
    for place, run in enumerate(sweep.runs):
        state = "recorded" if run.name in recorded else states[run.name].status if run.name in listed else "new"
        print(f"{place:4d}  {run.name}  {state:8}  {written(run.settings)}")
        if state in (WAITING, "new"):
            waiting.append(listed.get(run.name) or Listed(new, run.name, run.settings))
        new += run.name not in listed
    return sorted(waiting, key=lambda run: run.index)
