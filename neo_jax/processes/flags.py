"""The command-line flags on the processes of a run."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterator

from neo_jax.config.fields import Positive, Whole

START_SECONDS = 300  # default of --start-seconds
# The environment variable with the secret that the processes of a run share: whoever does not know it is not let in (docs/security.md). It is a
# variable and no flag, because command lines are seen by every user of a machine.
SECRET = "NEO_JAX_SECRET"
LEAST_SECRET = 16  # characters


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags on processes. Flags that are not given are detected from the cluster; without a cluster it is a run of one process.

    Attributes:
      processes: number of processes of the run.
      process: index of this process, from 0.
      coordinator: HOST:PORT where process 0 listens.
      cpu_devices: number of virtual CPU devices of this process; without it, the real devices are used.
      start_seconds: how long processes wait for each other at the start.
      bind: the address on which process 0 listens; without it, the one to which the coordinator's name leads there; 0.0.0.0: all interfaces.
    """

    processes: Positive | None = None
    process: Whole | None = None
    coordinator: str | None = None
    cpu_devices: Positive | None = None
    start_seconds: Positive = START_SECONDS
    bind: str | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d+", self.coordinator):
            yield "coordinator", f"is {self.coordinator!r}, must be HOST:PORT"
        if self.bind is not None and not _is_address(self.bind):
            yield "bind", f"is {self.bind!r}, must be an address, such as 10.0.0.7; 0.0.0.0 is all of this machine's"
        if (self.processes or 1) > 1 and (self.process is None or self.coordinator is None):
            yield "processes", f"{self.processes} processes need --process=INDEX and --coordinator=HOST:PORT (launch/local.py gives both)"
        if self.processes is None and (self.process is not None or self.coordinator is not None):
            yield "processes", "is missing: --process and --coordinator need --processes=COUNT"
        if self.processes and self.process is not None and self.process >= self.processes:
            yield "process", f"is {self.process}: {self.processes} processes are numbered 0 to {self.processes - 1}"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
