"""Sources of samples: the interface Source, and the table of formats that opens them.

Importing this module opens nothing and imports no media library, so that a configuration can be checked against the table.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from data_pipelines.schema import DataError, Sample, SourceSettings

if TYPE_CHECKING:
    from data_pipelines.sources.containers import Shard
    from data_pipelines.sources.containers.shards import Kind


class Source(Protocol):
    """Samples by number, with media still encoded. Safe to share between threads."""

    name: str
    settings: SourceSettings

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, folders or patterns from which its rows are read."""
        ...

    @property
    def ignored(self) -> Counter[str]:
        """Keys of rows that are not read, with the number of times each was ignored so far."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Returns a sample. Raises SampleError if it cannot be used."""
        ...

    def key(self, index: int) -> str:
        """Returns the name of a sample, usable or not, for messages and logs."""
        ...

    def shards(self) -> Sequence[Shard]:
        """Returns the source's files in order: the samples of shard k follow those of shard k - 1."""
        ...


def _open_jsonl(settings: SourceSettings, tables: pathlib.Path | None) -> Source:
    from data_pipelines.sources.containers.lines import Lines

    return _open_shards(settings, tables, Lines())


def _open_tar(settings: SourceSettings, tables: pathlib.Path | None) -> Source:
    from data_pipelines.sources.containers.tar import Tar

    return _open_shards(settings, tables, Tar())


def _open_parquet(settings: SourceSettings, tables: pathlib.Path | None) -> Source:
    from data_pipelines.sources.containers.parquet import Parquet
    from data_pipelines.sources.dialects.texts import columns_of

    used = columns_of(settings.prompts) | set(settings.columns.values())
    return _open_shards(settings, tables, Parquet([name for name in settings.ignore if name not in used]))


def _open_shards(settings: SourceSettings, tables: pathlib.Path | None, kind: Kind) -> Source:
    from data_pipelines.sources.containers.shards import Shards
    from data_pipelines.sources.containers.tables import Tables
    from data_pipelines.sources.source import RecordSource

    return RecordSource(settings, Shards(kind, settings.path, Tables(tables), settings.name))


def _open_arrayrecord(settings: SourceSettings, tables: pathlib.Path | None) -> Source:
    from data_pipelines.sources.containers.arrayrecord import ArrayRecords  # importing the library takes over a second

    return _open_shards(settings, tables, ArrayRecords())


def _open_folder(settings: SourceSettings, tables: pathlib.Path | None) -> Source:
    from data_pipelines.sources.containers.folder import open_folder
    from data_pipelines.sources.containers.tables import Tables
    from data_pipelines.sources.paths import one_path
    from data_pipelines.sources.source import RecordSource

    container = open_folder(settings, Tables(tables))
    return RecordSource(dataclasses.replace(settings, media_root=settings.media_root or one_path(settings)), container)


def _open_meta(settings: SourceSettings, tables: pathlib.Path | None) -> Source:
    from data_pipelines.sources.containers.tables import Tables
    from data_pipelines.sources.meta import open_meta

    return open_meta(settings, Tables(tables))


def _open_tfds(settings: SourceSettings, tables: pathlib.Path | None) -> Source:
    from data_pipelines.sources.containers.tables import Tables
    from data_pipelines.sources.tfds import open_tfds  # importing the library takes over a second

    return open_tfds(settings, Tables(tables))


FORMATS: Mapping[str, Callable[[SourceSettings, pathlib.Path | None], Source]] = {
    "jsonl": _open_jsonl,
    "tar": _open_tar,
    "parquet": _open_parquet,
    "arrayrecord": _open_arrayrecord,
    "tfds": _open_tfds,
    "folder": _open_folder,
    "meta": _open_meta,
}


def open_source(settings: SourceSettings, tables: pathlib.Path | None = None) -> Source:
    """Opens a source of any format.

    Args:
      settings: settings of the source.
      tables: folder for tables of records' positions and for copies with random access; processes may share it. None: a temporary folder
        that is deleted with the source.

    Raises DataError if the source cannot be used at all.
    """
    if settings.format not in FORMATS:
        raise DataError(f"source {settings.name!r} has the format {settings.format!r}: use one of {', '.join(FORMATS)}")
    return FORMATS[settings.format](settings, tables)
