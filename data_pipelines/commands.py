"""How the commands of this package end: exit codes, and one sentence on standard error where something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable

from data_pipelines.schema import DataError, Interrupted

UNUSABLE, STOPPED = 65, 75  # data or a configuration that cannot be used; stopped by a signal: start again to go on


def answer(command: str, work: Callable[[], None]) -> int:
    """Does the work of a command; returns its exit status."""
    try:
        work()
    except DataError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return UNUSABLE
    except Interrupted as error:
        print(f"{command}: {error}", file=sys.stderr)
        return STOPPED
    return 0
