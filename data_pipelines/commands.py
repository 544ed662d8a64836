"""Common parts of this package's commands: --help, exit codes, and one sentence on standard error after a failure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from data_pipelines.schema import DataError, Interrupted

UNUSABLE, STOPPED = 65, 75  # unusable data or configuration; stopped by a signal (start again to continue)


def command_parser(command: str, description: str | None, exit_codes: str, allow_abbrev: bool = True) -> argparse.ArgumentParser:
    """Returns the parser of `python -m data_pipelines.COMMAND`. Its --help prints the module's docstring unchanged."""
    return argparse.ArgumentParser(
        prog=f"python -m data_pipelines.{command}",
        description=description,
        epilog=f"exit codes: {exit_codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=allow_abbrev,
    )


def answer(command: str, work: Callable[[], None]) -> int:
    """Runs a command and returns its exit status."""
    try:
        work()
    except DataError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return UNUSABLE
    except Interrupted as error:
        print(f"{command}: {error}", file=sys.stderr)
        return STOPPED
    return 0
