"""Converts samples to files; shared by `python -m data_pipelines.convert` on one machine and the workers of a Beam pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import tensorflow_datasets
from array_record.python import array_record_module

from data_pipelines.media import images, video
from data_pipelines.schema import Sample, SourceSettings
from data_pipelines.sources import Source, tfds
from data_pipelines.sources.containers import Shard
from data_pipelines.sources.writing import WRITERS, ShardWriter

VERSION = "1.0.0"  # version of the TFDS datasets that are written


class _ExampleWriter:
    """Writes an ArrayRecord file of TFDS examples."""

    def __init__(self, path: pathlib.Path):
        self._features = tfds.features()
        # One record in each chunk: with more, reading one sample would also decompress its neighbours.
        self._writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")

    def write(self, number: int, sample: Sample, media: Sequence[bytes]) -> int:
        record = self._features.serialize_example(self._features.encode_example(tfds.encode(sample, list(media))))
        self._writer.write(record)
        return len(record)

    def close(self) -> None:
        self._writer.close()


TARGETS: Mapping[str, Callable[[pathlib.Path], ShardWriter]] = {  # by format: function that opens a writer of one file
    "tfds": _ExampleWriter,
    **{name: writer for name, (_, writer) in WRITERS.items()},
}


class Complete(NamedTuple):
    """A sample with the encoded bytes of its media files."""

    sample: Sample
    media: list[bytes]


class Written(NamedTuple):
    """The number of samples in each file, and the total size of their records in bytes."""

    counts: list[int]
    size: int


def read(source: Source, number: int) -> Complete:
    """Reads a sample with the bytes of its media, and checks the media's headers. Raises SampleError if the sample cannot be used."""
    sample = source[number]
    in_memory = dataclasses.replace(
        sample,
        images=tuple(map(images.loaded, sample.images)),
        clips=tuple(dataclasses.replace(clip, files=tuple(map(images.loaded, clip.files))) for clip in sample.clips),
    )
    for image in in_memory.images:
        images.image_size(image)
    for clip in in_memory.clips:
        video.probe(clip)
    return Complete(sample, [images.read_bytes(file) for file in in_memory.files])


def ranges(shards: Iterable[Shard], most: int) -> list[range]:
    """Returns the sample numbers of each output file, in order: at most `most` samples, all of one input file."""
    result, first = [], 0
    for shard in shards:
        stop = first + shard.samples
        result += [range(start, min(start + most, stop)) for start in range(first, stop, most)]
        first = stop
    return result


def write_shards(
    samples: Iterable[tuple[int, Complete | None]],
    folder: pathlib.Path,
    target: str,
    shard_bytes: int = sys.maxsize,
    starts: Collection[int] = (),
) -> Written:
    """Writes samples to files named 0, 1, ..., none of them empty.

    Args:
      samples: pairs of a sample's number, after which its media are named, and the sample; None for a sample that is left out.
      folder: folder of the files.
      target: output format, one of TARGETS.
      shard_bytes: size in bytes at which a file is closed.
      starts: numbers of the samples at which a new file begins.
    """
    counts: list[int] = []
    total, room = 0, 0
    with contextlib.ExitStack() as open_shard:
        for number, found in samples:
            if number in starts:
                room = 0
            if found is None:
                continue
            if room <= 0:
                open_shard.close()
                writer = open_shard.enter_context(contextlib.closing(TARGETS[target](folder / str(len(counts)))))
                counts.append(0)
                room = shard_bytes
            size = writer.write(number, *found)
            counts[-1] += 1
            total += size
            room -= size
    return Written(counts, total)


def file_names(name: str, target: str, count: int) -> list[str]:
    """Returns the names of the `count` files of the dataset `name`."""
    if target == "tfds":
        template = _template(pathlib.Path(), name)
        return [str(template.sharded_filepath(shard_index=number, num_shards=count)) for number in range(count)]
    return [f"{name}-{number:05d}-of-{count:05d}.{WRITERS[target][0]}" for number in range(count)]


def describe(settings: SourceSettings, folder: pathlib.Path, written: Written) -> None:
    """Writes the metadata of a TFDS dataset into the folder of its files."""
    split = tensorflow_datasets.core.SplitInfo(
        name=tfds.SPLIT, shard_lengths=written.counts, num_bytes=written.size, filename_template=_template(folder, settings.name)
    )
    tensorflow_datasets.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features(),
        version=VERSION,
        split_infos=[split],
        check_data=False,
        description=f"Conversations of {pathlib.Path(settings.paths[0]).name} with their images and videos, still encoded.",
    )


def _template(folder: pathlib.Path, name: str) -> tensorflow_datasets.core.ShardedFileTemplate:
    return tensorflow_datasets.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split=tfds.SPLIT, filetype_suffix="array_record"
    )
