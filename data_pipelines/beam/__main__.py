"""Indexes and converts corpora that one machine cannot, as a pipeline of Apache Beam.

    python -m data_pipelines.beam index --config FILE[:ARG] [--work ADDRESS] [--runner RUNNER ...]
    python -m data_pipelines.beam convert --input PATTERN --format tar --output ADDRESS --name NAME --shard-samples N [--runner RUNNER ...]

`index` builds the indexes that data_pipelines.index builds, byte for byte; `convert` the files that data_pipelines.convert writes with the same
--shard-samples. Flags that are not listed by --help are Apache Beam's. Workers need this package and requirements-beam.txt, and must see the
sources under the same addresses: in an object store, or on a disk that all share. Write paths out in full.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import threading
from types import FrameType

from data_pipelines.commands import answer, command_parser
from data_pipelines.configuration import read_configuration
from data_pipelines.conversion import TARGETS
from data_pipelines.convert import add_arguments, report, settings_of
from data_pipelines.failures import FailurePolicy
from data_pipelines.index.__main__ import build
from data_pipelines.schema import DataError, Interrupted


def index(options: argparse.Namespace, flags: list[str]) -> None:
    """Has workers measure what the indexes lack, then builds the indexes here.

    Raises DataError if the configuration or its data cannot be used, or if a pipeline failed.
    """
    from data_pipelines.beam.index import measure

    configuration = read_configuration(options.config)
    configuration.require_index()
    measure(configuration, options.work.rstrip("/") or os.path.join(os.path.expanduser(configuration.index_folder), "beam"), flags)
    build(options.config, 0, threading.Event())


def convert(options: argparse.Namespace, flags: list[str], parser: argparse.ArgumentParser) -> None:
    """Has workers convert a source, and prints the result. Raises DataError if the data cannot be used, or if the pipeline failed."""
    from data_pipelines.beam.convert import convert

    policy = FailurePolicy(options.max_failure_rate)
    report(*convert(settings_of(options, parser), options.output.rstrip("/"), options.shard_samples, policy, options.format, flags))


def _parser() -> argparse.ArgumentParser:
    codes = "0 done, 2 a flag is wrong, 65 the configuration or its data cannot be used or a pipeline failed, 75 stopped"
    parser = command_parser("beam", __doc__, codes, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    of_index = commands.add_parser("index", help="build the indexes of a configuration", allow_abbrev=False)
    of_index.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the configuration")
    of_index.add_argument(
        "--work",
        default="",
        type=os.path.expanduser,
        metavar="ADDRESS",
        help="folder for what workers read and write: in an object store, or on a disk that all share (default: beam in the index folder)",
    )
    of_convert = commands.add_parser("convert", help="write a source as files of another container", allow_abbrev=False)
    add_arguments(of_convert)
    of_convert.add_argument(
        "--format",
        choices=[target for target in TARGETS if target != "jsonl"],
        default="tfds",
        help="what is written (default: %(default)s)",
    )
    of_convert.add_argument(
        "--output",
        required=True,
        type=os.path.expanduser,
        metavar="ADDRESS",
        help="folder of datasets, in an object store or on a disk that all workers share; OUTPUT/NAME is written",
    )
    of_convert.add_argument("--shard-samples", type=int, required=True, help="most samples of a file, all of one input file")
    for command in (of_index, of_convert):
        command.add_argument("--runner", default="DirectRunner", help="of Apache Beam, with its flags after it (default: %(default)s)")
    return parser


def _stop(number: int, frame: FrameType | None) -> None:
    raise Interrupted(
        "stopped; parts of an index that were measured are kept, and the next start continues from there. A job that a cluster began goes on: "
        "cancel it there"
    )


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 65 if the data cannot be used or a pipeline failed, 75 if a signal stopped the work."""
    parser = _parser()
    options, flags = parser.parse_known_args(arguments)
    if options.command == "convert" and options.shard_samples < 1:
        parser.error("--shard-samples must be at least 1")

    def work() -> None:
        if importlib.util.find_spec("apache_beam") is None:
            raise DataError(
                "Apache Beam is not installed: `make .venv-beam/complete` makes an environment with it, or pip install -r requirements-beam.txt "
                "in one of its own"
            )
        from data_pipelines.beam.run import unknown_flags

        if options.runner == "DirectRunner" and (unknown := unknown_flags(flags)):
            parser.error(f"neither this command nor Apache Beam knows --{', --'.join(unknown)}")
        beam = [*flags, f"--runner={options.runner}"]
        try:
            if options.command == "index":
                index(options, beam)
            else:
                convert(options, beam, parser)
        except OSError as error:  # from a disk, a store or their clients
            raise DataError(f"a file of the pipeline cannot be read or written: {error}") from error

    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return answer(options.command, work)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
