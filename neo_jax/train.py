"""Trains a configuration, or continues its run: python -m neo_jax.train --config=configs/demo.py [--config.section.key=value ...].

`--help` lists flags and exit codes. All processes of a run end with the same code.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Sequence

import jax

from data_pipelines.schema import DataError
from neo_jax.attention.api import UnsupportedAttentionError
from neo_jax.config import Config, ConfigError, parse_command_line
from neo_jax.config.flags import Command, read_flags
from neo_jax.evaluation.report.build import report_run
from neo_jax.evaluation.report.data import table
from neo_jax.exit_codes import CONFIGURATION, DATA, DONE, FAILED, NOT_FINITE, PREEMPTED, TRY_AGAIN
from neo_jax.interop.errors import WeightsError
from neo_jax.processes import exchange, lifetime
from neo_jax.processes.flags import Flags
from neo_jax.processes.rendezvous import GroupError, MissingError
from neo_jax.runs.directory import RunDirectoryError
from neo_jax.runs.full_disk import disk_is_full
from neo_jax.runs.goodput import process_age
from neo_jax.runs.reading import CheckpointError
from neo_jax.training.health import BadStepError
from neo_jax.training.replicas import ReplicaError
from neo_jax.training.stopping import Preempted
from neo_jax.training.trainer import Trainer

CODES: dict[type[Exception], int] = {
    ConfigError: CONFIGURATION,
    UnsupportedAttentionError: CONFIGURATION,
    RunDirectoryError: CONFIGURATION,
    WeightsError: CONFIGURATION,
    CheckpointError: CONFIGURATION,
    GroupError: CONFIGURATION,
    MissingError: TRY_AGAIN,
    DataError: DATA,
    BadStepError: NOT_FINITE,
    ReplicaError: TRY_AGAIN,
    Preempted: PREEMPTED,
}

COMMAND = Command(
    "neo_jax.train",
    "Trains a configuration. The same command starts a run and continues it from the last checkpoint in its run directory.",
    "--config=configs/demo.py --config.run.seed=3",
    (DONE, FAILED, DATA, NOT_FINITE, TRY_AGAIN, PREEMPTED, CONFIGURATION),
)


def train(settings: Config) -> None:
    """Runs the curriculum, then writes the report and prints its path. Raises the exceptions of Trainer.run."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs the tracebacks of errors that it raises too
    logging.getLogger("neo_jax").setLevel(logging.INFO if exchange.is_first() else logging.WARNING)
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", f"{settings.run.directory}/compilation_cache")
    Trainer(settings, age=process_age()).run()
    written = report_run(settings) if exchange.is_first() else None
    if written is not None:
        page, report = written
        print(table(report.results))
        print(page.absolute())


def main(arguments: Sequence[str], run: Callable[[Config], None] = train, command: Command = COMMAND) -> int:
    """Runs a command on the configuration of a command line, in one process or several; returns the exit code.

    If the code is not 0, a message on stderr says why. If one of several processes fails, this does not return: it ends all of them.

    Args:
      arguments: the command line without the program's name.
      run: called with the configuration once all processes are connected.
      command: the command, for help and messages.
    """
    try:
        flags, rest = read_flags(Flags, arguments, command)
        settings = parse_command_line(rest)
        lifetime.start(flags, settings.resolved())
    except tuple(CODES) as error:  # nothing is connected yet
        return _report(error)
    try:
        run(settings)
        lifetime.finish()
    except Preempted as error:
        if not error.agreed:  # the others wait for this process
            lifetime.leave(_report(error), str(error))
        lifetime.finish()
        return _report(error)
    except Exception as error:
        if jax.process_count() > 1:
            lifetime.leave(_report(error), str(error) or type(error).__name__)
        if not isinstance(error, tuple(CODES)) and not disk_is_full(error):
            raise
        return _report(error)
    return DONE


def _report(error: Exception) -> int:
    """Prints an error, with its traceback if it is not one of CODES; returns the exit code, also if stderr is a file on a disk that is full."""
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), None)
    try:
        if code is not None:
            print(f"\n{error}", file=sys.stderr, flush=True)
        elif disk_is_full(error):
            print(
                f"\n{error}. Free some space and start the same command again: it continues from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
        else:
            traceback.print_exception(error)
    except OSError:
        sys.stderr = None  # else Python fails at the end to print what is left, and exits with 120
    return code if code is not None else CONFIGURATION if disk_is_full(error) else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
