"""This machine: one process, or several with virtual CPU devices, supervised by launch/local.py."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence

from launch.local import GRACE_SECONDS, supervise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is run.

    Attributes:
      command: program and arguments.
      directory: of the run; new checkpoints in it are progress.
      processes: that run it.
      devices: virtual CPU devices of each; 0: one process with the devices that there are.
      grace_seconds: between SIGTERM and the end of what still runs.
      environment: variables of the command.
    """

    command: Sequence[str]
    directory: str
    processes: int = 1
    devices: int = 0
    grace_seconds: int = GRACE_SECONDS
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def line(job: Job) -> str:
    """Returns the command line that does the same without launch.run."""
    flags = [f"--processes={job.processes}", f"--devices={job.devices}"] if job.devices else []
    words = [job.command[0], "launch/local.py", *flags, f"--grace-seconds={job.grace_seconds}", "--", *job.command]
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in job.environment.items()), shlex.join(words)])


def submit(job: Job) -> int:
    """Runs the command until it ends for good; returns its last exit code."""
    os.environ.update(job.environment)
    return supervise(job.command, pathlib.Path(job.directory), job.processes, job.devices, job.grace_seconds)
