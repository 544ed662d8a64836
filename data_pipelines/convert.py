"""Samples of any source to shards of another container, without TensorFlow.

    python -m data_pipelines.convert --input captions.jsonl --media-root images --output datasets --name captions

writes datasets/captions/1.0.0, to be opened as a source of format "tfds". With --format tar, parquet or jsonl it writes
datasets/captions/captions-00000-of-00004.tar and so on. Rows become conversations with their media; the folder appears when it is complete.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import tensorflow_datasets
from array_record.python import array_record_module

from data_pipelines.commands import UNUSABLE
from data_pipelines.failures import FailurePolicy, Failures
from data_pipelines.media import images, video
from data_pipelines.progress import progress
from data_pipelines.schema import DataError, Sample, SampleError, SourceSettings
from data_pipelines.sources import FORMATS, Source, open_source, tfds
from data_pipelines.sources.containers.recognise import format_of
from data_pipelines.sources.writing import WRITERS, ShardWriter

VERSION = "1.0.0"
TARGETS = ("tfds", *WRITERS)


def convert(
    settings: SourceSettings, output: pathlib.Path, shard_bytes: int, policy: FailurePolicy, target: str = "tfds"
) -> tuple[pathlib.Path, Failures]:
    """Writes a source as the folder OUTPUT/NAME, NAME being the source's name; of format "tfds" as the dataset OUTPUT/NAME/1.0.0.

    Args:
      settings: the source.
      output: folder of datasets.
      shard_bytes: a file is closed once it holds so many bytes.
      policy: when samples that cannot be used, which are left out, stop the work.
      target: the format, one of TARGETS. Of "jsonl" the folder `media` in OUTPUT/NAME is the media_root.

    Returns:
      The folder, and what was left out, named in OUTPUT/NAME.skipped.jsonl.

    Raises:
      DataError: the folder exists, the source cannot be used, or too many of its samples cannot.
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
        _write(source, settings, partial, shard_bytes, failures, target)
        os.rename(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final, failures


class _Written(NamedTuple):
    """The number of samples in each shard, and the bytes of all."""

    counts: list[int]
    size: int


def _write(source: Source, settings: SourceSettings, folder: pathlib.Path, shard_bytes: int, failures: Failures, target: str) -> None:
    """Writes the files. Raises DataError unless enough of the samples can be used."""
    ending, writer = WRITERS.get(target, ("array_record", _ExampleWriter))
    samples = progress(_samples(source, failures), len(source), f"converting {source.name}")
    written = _write_shards(samples, folder, shard_bytes, writer)
    if not written.counts:
        raise DataError(f"nothing to write: {failures.summary()}")
    failures.check_rate(whole=True)
    shards = len(written.counts)
    if target == "tfds":
        _describe(settings, folder, written)
        return
    for number in range(shards):
        os.rename(folder / str(number), folder / f"{settings.name}-{number:05d}-of-{shards:05d}.{ending}")


def _describe(settings: SourceSettings, folder: pathlib.Path, written: _Written) -> None:
    """Names the files as TFDS does, and writes its descriptions."""
    template = tensorflow_datasets.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=settings.name, split=tfds.SPLIT, filetype_suffix="array_record"
    )
    for number in range(len(written.counts)):
        os.rename(folder / str(number), template.sharded_filepath(shard_index=number, num_shards=len(written.counts)))
    split = tensorflow_datasets.core.SplitInfo(
        name=tfds.SPLIT, shard_lengths=written.counts, num_bytes=written.size, filename_template=template
    )
    tensorflow_datasets.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features(),
        version=VERSION,
        split_infos=[split],
        check_data=False,
        description=f"Conversations of {pathlib.Path(settings.paths[0]).name} with their images and videos, still encoded.",
    )


def _samples(source: Source, failures: Failures) -> Iterator[tuple[Sample, list[bytes]] | None]:
    """Yields each sample with the bytes of its files; None for one that cannot be used."""
    for number in range(len(source)):
        try:
            sample = source[number]
            for image in sample.images:
                images.image_size(image)
            for clip in sample.clips:
                video.probe(clip)
            media = [images.read_bytes(file) for file in sample.files]
        except SampleError as error:
            failures.fail(source.name, source.key(number), error.reason, str(error))
            yield None
        else:
            failures.succeed(source.name)
            yield sample, media


def _write_shards(
    samples: Iterator[tuple[Sample, list[bytes]] | None],
    folder: pathlib.Path,
    shard_bytes: int,
    open_writer: Callable[[pathlib.Path], ShardWriter],
) -> _Written:
    """Writes files named 0, 1, ..."""
    counts: list[int] = []
    total, room = 0, 0
    with contextlib.ExitStack() as open_shard:
        for found in samples:
            if found is None:
                continue
            if room <= 0:
                open_shard.close()
                writer = open_shard.enter_context(contextlib.closing(open_writer(folder / str(len(counts)))))
                counts.append(0)
                room = shard_bytes
            size = writer.write(sum(counts), *found)
            counts[-1] += 1
            total += size
            room -= size
    return _Written(counts, total)


class _ExampleWriter:
    """An ArrayRecord file of TFDS examples."""

    def __init__(self, path: pathlib.Path):
        self._features = tfds.features()
        # One record in each chunk: else reading one sample decompresses its neighbours too.
        self._writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")

    def write(self, number: int, sample: Sample, media: Sequence[bytes]) -> int:
        record = self._features.serialize_example(self._features.encode_example(tfds.encode(sample, list(media))))
        self._writer.write(record)
        return len(record)

    def close(self) -> None:
        self._writer.close()


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 when the dataset is written, 65 when the data cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.convert",
        description=__doc__,
        epilog="exit codes: 0 written, 2 a flag is wrong, 65 the data cannot be used",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, action="append", help="a file, a pattern of files or a folder; may be repeated")
    parser.add_argument("--input-format", choices=sorted(FORMATS), help="of the input (default: what its first file is)")
    parser.add_argument("--format", choices=TARGETS, default="tfds", help="what is written (default: %(default)s)")
    parser.add_argument("--media-root", default="", type=os.path.expanduser, help="folder that its media paths are relative to")
    parser.add_argument(
        "--output",
        required=True,
        type=lambda text: pathlib.Path(text).expanduser(),
        help="folder of datasets; OUTPUT/NAME is written",
    )
    parser.add_argument("--name", required=True, help="the dataset's name: letters, digits and underscores")
    parser.add_argument("--shard-megabytes", type=int, default=256, help="size of a file (default: %(default)s)")
    parser.add_argument("--max-failure-rate", type=float, default=FailurePolicy.max_rate, help="share left out that stops (%(default)s)")
    parser.add_argument("--ignore", action="append", default=[], metavar="KEY", help="a key of rows or turns to pass over; may be repeated")
    options = parser.parse_args(arguments)
    if not options.name.isidentifier() or not options.name.isascii():
        parser.error(f"--name {options.name!r}: use letters, digits and underscores, not beginning with a digit")
    if options.shard_megabytes < 1:
        parser.error("--shard-megabytes must be at least 1")
    settings = SourceSettings(
        options.name,
        options.input_format or format_of(options.input[0]),
        options.input[0] if len(options.input) == 1 else tuple(options.input),
        options.media_root,
        ignore=tuple(options.ignore),
    )
    try:
        folder, failures = convert(
            settings, options.output, options.shard_megabytes << 20, FailurePolicy(options.max_failure_rate), options.format
        )
    except DataError as error:
        print(f"convert: {error}", file=sys.stderr)
        return UNUSABLE
    if failures.failed:
        print(f"left out: {failures.summary()}", file=sys.stderr)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
