"""One run of a sweep as a task of a SLURM job array. `python -m launch.sweep run --target=slurm` submits it; srun starts it once on each node.

The batch script queues the task again by the exit code. Process 0 records in the sweep's folder what happens to the run.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Annotated

from launch.local import RETRIES, newest_checkpoint
from neo_jax.config import ConfigError
from neo_jax.config.fields import Whole
from neo_jax.config.flags import Command, read_flags
from neo_jax.exit_codes import CONFIGURATION, DONE, FINAL, MEANINGS
from neo_jax.sweeps.folder import Listed, SweepFolder

SUBMITTED_SECONDS = 60.0  # until what the submitting host writes is seen here
START_SECONDS = 600  # how long the processes of a run wait for each other
COMMAND = Command(
    "launch.array_task",
    "Runs one run of a sweep as a task of a SLURM job array; launch.sweep submits it.",
    "--folder=runs/sweeps/NAME --module=neo_jax.demo --index=3",
    {**MEANINGS, DONE: "done, or nothing more to do: the sweep was stopped"},
    None,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of the command.

    Attributes:
      folder: of the sweep.
      module: that trains.
      index: of the run in the sweep's list.
      devices: virtual CPU devices of this process; without it, the devices that there are.
    """

    folder: Annotated[str, pathlib.Path]
    module: str
    index: Whole
    devices: Whole = 0


def main(arguments: Sequence[str]) -> int:
    try:
        flags, _ = read_flags(Flags, arguments, COMMAND)
        if not {"SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID"} <= os.environ.keys():
            raise ConfigError(["this is no task of a SLURM job array: write python -m launch.sweep run FILE --target=slurm"])
        task = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        folder = SweepFolder(pathlib.Path(flags.folder))
        run = _run_of(folder, flags.index, task)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIGURATION
    return _supervise(folder, run, task, flags)


def _run_of(folder: SweepFolder, index: int, task: str) -> Listed:
    """Returns a run. Raises ConfigError if its task is not in the folder, as after a kill between sbatch and the note of its answer."""
    deadline = time.monotonic() + SUBMITTED_SECONDS
    while not _happened(folder, task, "submitted"):
        if time.monotonic() > deadline:
            raise ConfigError([f"{folder.path}: task {task} is not noted there, so another may do its work: it ends"])
        time.sleep(0.5)
    return folder.listed()[index]


def _supervise(folder: SweepFolder, run: Listed, task: str, flags: Flags) -> int:
    """Runs the training command and returns the exit code for the batch script: a final one, if the run shall not be started again."""
    if _happened(folder, task, "stopping"):
        return DONE
    first, directory = os.environ["SLURM_PROCID"] == "0", folder.run_directory(run.name)
    signal.signal(signal.SIGTERM, lambda *_: None)  # SLURM sends it to the training process as well, which saves
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((folder.path / "compilation_cache").absolute()))  # one for all runs
    if first:
        folder.record(run, "started", task=task, step=newest_checkpoint(directory))
    command = [sys.executable, "-m", flags.module, f"--config={folder.configuration(run.name)}", f"--start-seconds={START_SECONDS}"]
    command += [f"--cpu-devices={flags.devices}"] if flags.devices else []
    with folder.log(run.name).open("a") as log:
        code = subprocess.call(command, stdout=log if first else None, stderr=log if first else None)
    code = code if code >= 0 else 128 - code  # killed: as a shell says it
    if code in FINAL:
        if first:
            folder.record(run, "ended", code=code, task=task)
        return code
    stopping = _happened(folder, task, "stopping")
    over = stopping or _attempts_in_vain(folder, task, newest_checkpoint(directory)) >= RETRIES
    if first and over and not stopping:
        print(f"array_task: {RETRIES} attempts in a row wrote no checkpoint (last exit code {code}): given up", file=sys.stderr, flush=True)
    if first:
        folder.record(run, "ended" if over else "interrupted", code=code, task=task)
    return DONE if stopping else CONFIGURATION if over else code


def _happened(folder: SweepFolder, task: str, event: str) -> bool:
    return any(line["event"] == event for line in folder.events(task))


def _attempts_in_vain(folder: SweepFolder, task: str, newest: int) -> int:
    """Returns how many of the last starts of a task were at the checkpoint that is still the newest."""
    steps = [line["step"] for line in folder.events(task) if line["event"] == "started"]
    return next((count for count, step in enumerate(reversed(steps)) if step < newest), len(steps))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
