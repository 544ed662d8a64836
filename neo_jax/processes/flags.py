"""The flags of a command that say which process of a run this is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from neo_jax.config.fields import ConfigError, nearest

START_SECONDS = 300  # that processes wait for each other at the start, unless --start-seconds says otherwise

FLAGS = ("processes", "process", "coordinator", "cpu-devices", "start-seconds")


class Flags(NamedTuple):
    """What the command line says of processes.

    Attributes:
      processes, process, coordinator: how many, which one this is, and HOST:PORT where process 0 listens; None: find out.
      cpu_devices: virtual CPU devices of this process; None: the devices that there are.
      start_seconds: how long processes wait for each other at the start.
    """

    processes: int | None = None
    process: int | None = None
    coordinator: str | None = None
    cpu_devices: int | None = None
    start_seconds: int = START_SECONDS


def read_flags(arguments: Sequence[str]) -> tuple[Flags, list[str]]:
    """Takes the flags of processes from a command line; returns the rest too. Raises ConfigError with everything that is wrong with them."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    rest = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
        if not argument.startswith("-") or name == "config" or name.startswith("config.") or not (name in FLAGS or nearest(name, FLAGS)):
            rest.append(argument)
        elif name not in FLAGS:
            problems.append(f"{argument}: unknown flag{nearest(name, FLAGS)}")
        elif name == "coordinator":
            values[name] = text
            if not re.fullmatch(r"\S+:\d+", text):
                problems.append(f"{argument}: must be HOST:PORT")
        elif not (equals and text.isascii() and text.isdecimal()) or (int(text) < 1 and name != "process"):
            problems.append(f"{argument}: must be a whole number{'' if name == 'process' else ' of at least 1'}: --{name}=4")
        else:
            values[name.replace("-", "_")] = int(text)
    flags = Flags(**values) if not problems else Flags()
    if (flags.processes or 1) > 1 and (flags.process is None or flags.coordinator is None):
        problems.append(f"--processes={flags.processes} needs --process=INDEX and --coordinator=HOST:PORT (launch/local.py gives both)")
    if flags.processes is None and (flags.process is not None or flags.coordinator is not None):
        problems.append("--process and --coordinator need --processes=COUNT")
    if flags.processes and flags.process is not None and flags.process >= flags.processes:
        problems.append(f"--process={flags.process}: {flags.processes} processes are numbered 0 to {flags.processes - 1}")
    if problems:
        raise ConfigError(problems)
    return flags, rest
