"""JSON(L) and its media files to a TFDS dataset in array_record files, without TensorFlow.

    python -m data_pipelines.convert --input captions.jsonl --media-root images --output datasets --name captions

writes datasets/captions/1.0.0, to be opened as a source of format "tfds". The folder appears when it is complete.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets
from array_record.python import array_record_module

from data_pipelines.failures import FailurePolicy, Failures
from data_pipelines.media import images, video
from data_pipelines.progress import progress
from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.sources import Source, open_source, tfds

VERSION = "1.0.0"


def convert(settings: SourceSettings, output: pathlib.Path, shard_bytes: int, policy: FailurePolicy) -> tuple[pathlib.Path, Failures]:
    """Writes a source as the dataset OUTPUT/NAME/1.0.0, NAME being the source's name.

    Args:
      settings: the source.
      output: folder of datasets.
      shard_bytes: a file is closed once it holds so many bytes.
      policy: when samples that cannot be used, which are left out, stop the work.

    Returns:
      The dataset's folder, and what was left out, named in OUTPUT/NAME.skipped.jsonl.

    Raises:
      DataError: the dataset exists, the source cannot be used, or too many of its samples cannot.
    """
    final = output / settings.name / VERSION
    if final.exists():
        raise DataError(f"{final} exists; delete it or choose another name")
    source = open_source(settings)
    partial = output / settings.name / f"{VERSION}.partial"
    log = output / f"{settings.name}.skipped.jsonl"
    shutil.rmtree(partial, ignore_errors=True)
    log.unlink(missing_ok=True)
    partial.mkdir(parents=True)
    failures = Failures(log, policy)
    try:
        _write(source, settings, partial, shard_bytes, failures)
        os.rename(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final, failures


def _write(source: Source, settings: SourceSettings, folder: pathlib.Path, shard_bytes: int, failures: Failures) -> None:
    """Writes the files of the dataset. Raises DataError unless enough of the samples can be used."""
    counts, written = _write_shards(progress(_records(source, failures), len(source), f"converting {source.name}"), folder, shard_bytes)
    if not counts:
        raise DataError(f"nothing to write: {failures.summary()}")
    failures.check_rate(whole=True)
    template = tensorflow_datasets.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=settings.name, split=tfds.SPLIT, filetype_suffix="array_record"
    )
    for number in range(len(counts)):
        os.rename(folder / str(number), template.sharded_filepath(shard_index=number, num_shards=len(counts)))
    tensorflow_datasets.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features(),
        version=VERSION,
        split_infos=[
            tensorflow_datasets.core.SplitInfo(name=tfds.SPLIT, shard_lengths=counts, num_bytes=written, filename_template=template)
        ],
        check_data=False,
        description=f"Conversations of {pathlib.Path(settings.paths[0]).name} with their images and videos, still encoded.",
    )


def _records(source: Source, failures: Failures) -> Iterator[bytes | None]:
    """Yields each sample as it is stored; None for one that cannot be used."""
    features = tfds.features()
    for number in range(len(source)):
        try:
            sample = source[number]
            for image in sample.images:
                images.image_size(image)
            for clip in sample.clips:
                video.probe(clip)
            media = [images.read_bytes(file) for file in sample.files]
            record = features.serialize_example(features.encode_example(tfds.encode(sample, media)))
        except SampleError as error:
            failures.fail(source.name, source.key(number), error.reason, str(error))
            yield None
        else:
            failures.succeed(source.name)
            yield record


def _write_shards(records: Iterator[bytes | None], folder: pathlib.Path, shard_bytes: int) -> tuple[list[int], int]:
    """Writes files named 0, 1, ...; returns the number of records in each, and the bytes of all."""
    counts: list[int] = []
    written, room = 0, 0
    writer: Any = None
    for record in records:
        if record is None:
            continue
        if room <= 0:
            if writer is not None:
                writer.close()
            # One record in each chunk: else reading one sample decompresses its neighbours too.
            writer = array_record_module.ArrayRecordWriter(str(folder / str(len(counts))), "group_size:1")
            counts.append(0)
            room = shard_bytes
        writer.write(record)
        counts[-1] += 1
        written += len(record)
        room -= len(record)
    if writer is not None:
        writer.close()
    return counts, written


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 when the dataset is written, 65 when the data cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.convert",
        description=__doc__,
        epilog="exit codes: 0 written, 2 a flag is wrong, 65 the data cannot be used",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, type=os.path.expanduser, help="the .json or .jsonl file")
    parser.add_argument("--media-root", default="", type=os.path.expanduser, help="folder that its media paths are relative to")
    parser.add_argument(
        "--output",
        required=True,
        type=lambda text: pathlib.Path(text).expanduser(),
        help="folder of datasets; OUTPUT/NAME/1.0.0 is written",
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
    settings = SourceSettings(options.name, "jsonl", options.input, options.media_root, ignore=tuple(options.ignore))
    try:
        folder, failures = convert(settings, options.output, options.shard_megabytes << 20, FailurePolicy(options.max_failure_rate))
    except DataError as error:
        print(f"convert: {error}", file=sys.stderr)
        return 65
    if failures.failed:
        print(f"left out: {failures.summary()}", file=sys.stderr)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
