"""Trains a configuration from where its run directory stands: python -m neo_jax.train --config=configs/demo.py [--config.section.key=value ...].

Exit codes: 0 done, 65 data that cannot be used, 70 a loss or gradient that is not finite, 77 stopped by SIGTERM with everything saved (start the
same command again), 78 a configuration or run directory that cannot be used.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

import jax

from data_pipelines.schema import DataError
from neo_jax.attention.api import checked_intervals
from neo_jax.config import Config, ConfigError, parse_command_line
from neo_jax.evaluation.of_run import report_run
from neo_jax.evaluation.report import table
from neo_jax.interop.huggingface import CheckpointError
from neo_jax.training.trainer import NonFiniteError, Preempted, RunDirectoryError, Trainer

DONE, DATA, NOT_FINITE, PREEMPTED, CONFIGURATION = 0, 65, 70, 77, 78


def train(settings: Config) -> None:
    """Runs the curriculum and writes its report, whose path is printed last; raises what Trainer.run raises."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("neo_jax").setLevel(logging.INFO)
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", f"{settings.run.directory}/compilation_cache")
    with checked_intervals(settings.run.debug):
        Trainer(settings).run()
    written = report_run(settings)
    if written is not None:
        page, report = written
        print(table(report.results))
        print(page.absolute())


def main(arguments: Sequence[str], run: Callable[[Config], None] = train) -> int:
    """Runs a command on the configuration of a command line; returns the exit code, with one sentence on stderr where it is not 0."""
    try:
        run(parse_command_line(arguments))
    except (ConfigError, RunDirectoryError, CheckpointError) as error:
        return _report(error, CONFIGURATION)
    except DataError as error:
        return _report(error, DATA)
    except NonFiniteError as error:
        return _report(error, NOT_FINITE)
    except Preempted as error:
        return _report(error, PREEMPTED)
    return DONE


def _report(error: Exception, code: int) -> int:
    print(f"\n{error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
