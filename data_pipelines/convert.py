"""Converts a source to shards of another container, without TensorFlow.

    python -m data_pipelines.convert --input captions.jsonl --media-root images --output datasets --name captions

writes datasets/captions/1.0.0, to be opened as a source of format "tfds". With --format tar, parquet or jsonl it writes
datasets/captions/captions-00000-of-00004.tar and so on. Rows become conversations with their media; the folder appears when it is complete.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator

from data_pipelines.commands import answer, command_parser
from data_pipelines.conversion import TARGETS, VERSION, Complete, describe, file_names, ranges, read, write_shards
from data_pipelines.failures import FailurePolicy, Failures
from data_pipelines.progress import progress
from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.sources import FORMATS, Source, open_source
from data_pipelines.sources.containers.recognise import format_of


def convert(
    settings: SourceSettings, output: pathlib.Path, shard_bytes: int, policy: FailurePolicy, target: str = "tfds", shard_samples: int = 0
) -> tuple[pathlib.Path, Failures]:
    """Writes a source to the folder OUTPUT/NAME, where NAME is the source's name; with target "tfds", to OUTPUT/NAME/1.0.0.

    Args:
      settings: settings of the source.
      output: folder of datasets.
      shard_bytes: size in bytes at which a file is closed.
      policy: limit on samples that cannot be used; they are left out, and the conversion fails if there are too many.
      shard_samples: maximum number of samples of a file, all of one input file; replaces shard_bytes unless it is 0.
      target: output format, one of TARGETS. With "jsonl" the media_root is the folder `media` in OUTPUT/NAME.

    Returns:
      The folder, and the samples that were left out, which OUTPUT/NAME.skipped.jsonl lists.

    Raises:
      DataError: the folder exists, the source cannot be used, or too many of its samples cannot be used.
    """
    final = output / settings.name / VERSION if target == "tfds" else output / settings.name
    if final.exists():
        raise DataError(f"{final} exists; delete it or choose another name")
    source = open_source(settings)
    partial = final.with_name(f"{final.name}.partial")
    log = output / f"{settings.name}.skipped.jsonl"
    shutil.rmtree(partial, ignore_errors=True)
    log.unlink(missing_ok=True)
    partial.mkdir(parents=True)
    failures = Failures(log, policy)
    try:
        _write(source, settings, partial, shard_bytes, shard_samples, failures, target)
        os.rename(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final, failures


def _write(
    source: Source, settings: SourceSettings, folder: pathlib.Path, shard_bytes: int, shard_samples: int, failures: Failures, target: str
) -> None:
    """Writes the files of the dataset. Raises DataError if too many samples cannot be used."""
    starts = {numbers.start for numbers in ranges(source.shards(), shard_samples)} if shard_samples else ()
    samples = progress(_samples(source, failures), len(source), f"converting {source.name}")
    written = write_shards(samples, folder, target, sys.maxsize if shard_samples else shard_bytes, starts)
    if not written.counts:
        raise DataError(f"nothing to write: {failures.summary()}")
    failures.check_rate(whole=True)
    for number, name in enumerate(file_names(settings.name, target, len(written.counts))):
        os.rename(folder / str(number), folder / name)
    if target == "tfds":
        describe(settings, folder, written)


def _samples(source: Source, failures: Failures) -> Iterator[tuple[int, Complete | None]]:
    """Yields the number of each sample, and the sample or None if it cannot be used."""
    for number in range(len(source)):
        try:
            found = read(source, number)
        except SampleError as error:
            failures.fail(source.name, source.key(number), error.reason, str(error))
            yield number, None
        else:
            failures.succeed(source.name)
            yield number, found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a conversion, except those for its output folder and the size of its files."""
    parser.add_argument("--input", required=True, action="append", help="a file, a pattern of files or a folder; may be repeated")
    parser.add_argument("--input-format", choices=sorted(FORMATS), help="of the input (default: what its first file is)")
    parser.add_argument("--media-root", default="", type=os.path.expanduser, help="folder that its media paths are relative to")
    parser.add_argument("--name", required=True, help="the dataset's name: letters, digits and underscores")
    parser.add_argument("--max-failure-rate", type=float, default=FailurePolicy.max_rate, help="share left out that stops (%(default)s)")
    parser.add_argument("--ignore", action="append", default=[], metavar="KEY", help="a key of rows or turns to pass over; may be repeated")


def settings_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> SourceSettings:
    """Returns the source settings that the flags of `add_arguments` describe.

    Raises DataError if the format cannot be recognised. An invalid --name ends the program.
    """
    if not options.name.isidentifier() or not options.name.isascii():
        parser.error(f"--name {options.name!r}: use letters, digits and underscores, not beginning with a digit")
    return SourceSettings(
        options.name,
        options.input_format or format_of(options.input[0]),
        options.input[0] if len(options.input) == 1 else tuple(options.input),
        options.media_root,
        ignore=tuple(options.ignore),
    )


def main(arguments: list[str] | None = None) -> int:
    """Converts a source as the flags say. Returns the exit status: 0 if the dataset is written, 65 if the data cannot be used."""
    parser = command_parser("convert", __doc__, "0 written, 2 a flag is wrong, 65 the data cannot be used")
    add_arguments(parser)
    parser.add_argument("--format", choices=TARGETS, default="tfds", help="what is written (default: %(default)s)")
    parser.add_argument(
        "--output",
        required=True,
        type=lambda text: pathlib.Path(text).expanduser(),
        help="folder of datasets; OUTPUT/NAME is written",
    )
    parser.add_argument("--shard-megabytes", type=int, default=256, help="size of a file (default: %(default)s)")
    parser.add_argument(
        "--shard-samples",
        type=int,
        default=0,
        help="instead of a size: most samples of a file, all of one input file (as Beam divides them)",
    )
    options = parser.parse_args(arguments)
    if options.shard_megabytes < 1 or options.shard_samples < 0:
        parser.error("--shard-megabytes must be at least 1, and --shard-samples at least 0")

    def work() -> None:
        settings = settings_of(options, parser)
        folder, failures = convert(
            settings,
            options.output,
            options.shard_megabytes << 20,
            FailurePolicy(options.max_failure_rate),
            options.format,
            options.shard_samples,
        )
        report(folder, failures)

    return answer("convert", work)


def report(folder: object, failures: Failures) -> None:
    """Prints the folder on standard output, and a summary of the samples that were left out on standard error."""
    if failures.failed:
        print(f"left out: {failures.summary()}", file=sys.stderr)
    print(folder)


if __name__ == "__main__":
    sys.exit(main())
