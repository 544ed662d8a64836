"""Compares runs on one self-contained HTML page: python -m neo_jax.report RUN... [--output=FILE]."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from data_pipelines.storage import write_whole
from neo_jax.comparison.page import page
from neo_jax.comparison.runs import read_runs
from neo_jax.config.fields import ConfigError, Path
from neo_jax.config.flags import Command, read_flags
from neo_jax.exit_codes import CONFIGURATION, DONE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags.

    Attributes:
      output: the page.
    """

    output: Path = "comparison.html"


COMMAND = Command(
    "neo_jax.report",
    "Compares run directories on one HTML page: curves, phases, throughput, goodput, incidents, answers, differences of settings. One run makes a "
    "page too. Runs may still be going on; nothing is written into their directories.",
    "runs/first runs/second --output=comparison.html",
    {DONE: "the page is written", CONFIGURATION: "a flag is wrong, or a directory is no run"},
    operands="RUN...",
)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    try:
        flags, directories = read_flags(Flags, arguments, COMMAND)
        if not directories:
            raise ConfigError([f"no run is named: write {COMMAND.example}"])
        text = page(read_runs(directories))
        output = pathlib.Path(flags.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(
            output, text.encode("utf-8", "xmlcharrefreplace")
        )  # answers may hold half a surrogate pair, which UTF-8 has no bytes for
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIGURATION
    except OSError as error:
        print(f"--output={flags.output} cannot be written ({error.strerror})", file=sys.stderr)
        return CONFIGURATION
    print(output.absolute())
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
