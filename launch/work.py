"""What a sweep's driver starts: a run on this machine, or the same elsewhere (launch/jobset_run.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol, TextIO

from launch.local import Supervised
from neo_jax.sweeps.file import Sweep
from neo_jax.sweeps.folder import Listed, SweepFolder


class Work(Protocol):
    """A run until it ends for good, wherever that is."""

    def run(self) -> int:
        """Starts the run, or finds it going on; returns its last exit code."""
        ...

    def stop(self) -> None:
        """Makes `run` return, after the run has saved. Called from another thread, any number of times."""
        ...


def local_work(sweep: Sweep, folder: SweepFolder, processes: int, devices: int, grace_seconds: int) -> Callable[[Listed, TextIO], Work]:
    """Returns what starts a run on this machine, as launch.local does, with its log."""

    def start(run: Listed, log: TextIO) -> Work:
        command = [sys.executable, "-m", sweep.command, f"--config={folder.configuration(run.name)}"]
        return Supervised(command, folder.run_directory(run.name), processes, devices, grace_seconds, log)

    return start
