"""The flags of launch.sweep."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Annotated

from launch.local import GRACE_SECONDS
from neo_jax.config.fields import OneOf, Positive, Text, Whole

TARGETS = ("local", "slurm", "jobset")
OF_TARGET = {
    "processes": ("local",),
    "devices": ("local", "slurm"),
    "hardware": ("slurm", "jobset"),
    "sbatch": ("slurm",),
    "image": ("jobset",),
    "volume": ("jobset",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of the command.

    Attributes:
      target: local (this machine), slurm (a job array) or jobset (Kubernetes, a JobSet a run).
      parallel: runs at once.
      processes: processes of each run on this machine; more than one needs --devices.
      devices: local, slurm: virtual CPU devices of each process; without it, a run is one process with the devices that there are.
      grace_seconds: that runs have to save and end after a signal; on SLURM, the signal comes so long before the time limit.
      hardware: slurm, jobset: of each run, such as h200:1x8 (a node of eight); it sets nodes, chips and the flags of the compiler. jobset needs it.
      sbatch: slurm: further options of sbatch without dashes, such as partition=gpu.
      image: jobset: container image of the pods; needed.
      volume: jobset: claim (ReadWriteMany) that pods mount at /data, and in which --folder lies; needed.
      folder: where sweeps keep their runs.
      dry_run: only lists the runs that `run` would launch, and prints the batch script or the first manifest.
      csv: `results` writes a line a run to this file.
      html: `results` writes a page to this file.
    """

    target: Annotated[str, OneOf(TARGETS)] = "local"
    parallel: Positive = 1
    processes: Positive = 1
    devices: Whole = 0
    grace_seconds: Positive = GRACE_SECONDS
    hardware: str = ""
    sbatch: tuple[Text, ...] = ()
    image: str = ""
    volume: str = ""
    folder: Annotated[str, pathlib.Path] = "runs/sweeps"
    dry_run: bool = False
    csv: Annotated[str, pathlib.Path] = ""
    html: Annotated[str, pathlib.Path] = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.processes > 1 and not self.devices and self.target == "local":
            yield "devices", f"is missing: {self.processes} processes need to know how many virtual CPU devices each has"
        for field in dataclasses.fields(self):
            users = OF_TARGET.get(field.name, TARGETS)
            if self.target in users or getattr(self, field.name) == field.default:
                continue
            if field.name == "processes" and self.target == "slurm":
                yield "processes", f"is for this machine: on SLURM, write --sbatch=nodes={self.processes} for so many processes of each run"
            else:
                yield field.name, f"is a flag of --target={' and '.join(users)}, not of {self.target}: leave it out"
