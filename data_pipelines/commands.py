"""How the commands of this package begin and end: --help, exit codes, and one sentence on standard error where something is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from data_pipelines.schema import DataError, Interrupted

UNUSABLE, STOPPED = 65, 75  # data or a configuration that cannot be used; stopped by a signal: start again to go on


def command_parser(command: str, description: str | None, exit_codes: str, allow_abbrev: bool = True) -> argparse.ArgumentParser:
    """The parser of `python -m data_pipelines.COMMAND`, whose --help shows the module's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m data_pipelines.{command}",
        description=description,
        epilog=f"exit codes: {exit_codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=allow_abbrev,
    )


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
