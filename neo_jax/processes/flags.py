"""The flags that say which process of a run this is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from neo_jax.config.fields import Positive, Whole

START_SECONDS = 300  # that processes wait for each other at the start, unless --start-seconds says otherwise


@dataclasses.dataclass(frozen=True)
class Flags:
    """What the command line says of processes; None: find out from the cluster, else one process.

    Attributes:
      processes: how many processes the run has.
      process: which of them this is, from 0.
      coordinator: HOST:PORT where process 0 listens.
      cpu_devices: virtual CPU devices of this process; without it, the devices that there are.
      start_seconds: how long processes wait for each other at the start.
    """

    processes: Positive | None = None
    process: Whole | None = None
    coordinator: str | None = None
    cpu_devices: Positive | None = None
    start_seconds: Positive = START_SECONDS

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d+", self.coordinator):
            yield "coordinator", f"is {self.coordinator!r}, must be HOST:PORT"
        if (self.processes or 1) > 1 and (self.process is None or self.coordinator is None):
            yield "processes", f"{self.processes} processes need --process=INDEX and --coordinator=HOST:PORT (launch/local.py gives both)"
        if self.processes is None and (self.process is not None or self.coordinator is not None):
            yield "processes", "is missing: --process and --coordinator need --processes=COUNT"
        if self.processes and self.process is not None and self.process >= self.processes:
            yield "process", f"is {self.process}: {self.processes} processes are numbered 0 to {self.processes - 1}"
