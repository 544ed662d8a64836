"""Where samples come from: one table of formats, each opened behind one interface.

Importing this opens nothing and imports no media library, so that a configuration can be checked against the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from data_pipelines.schema import DataError, Sample, SourceSettings


class Source(Protocol):
    """Samples by number, media still encoded. Safe to share between threads."""

    name: str

    @property
    def ignored(self) -> Counter[str]:
        """Keys of rows that are not read, with the number of times each was passed over so far."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Raises SampleError for a sample that cannot be used."""
        ...

    def key(self, index: int) -> str:
        """Names a sample, usable or not, in messages and logs."""
        ...

    def fingerprint(self) -> str:
        """Changes when the source's own files or its settings change."""
        ...


def _open_jsonl(settings: SourceSettings) -> Source:
    from data_pipelines.sources.jsonl import JsonlSource

    return JsonlSource(settings)


def _open_tfds(settings: SourceSettings) -> Source:
    from data_pipelines.sources.tfds import TfdsSource  # importing the library takes over a second

    return TfdsSource(settings)


FORMATS: Mapping[str, Callable[[SourceSettings], Source]] = {"jsonl": _open_jsonl, "tfds": _open_tfds}


def open_source(settings: SourceSettings) -> Source:
    """Opens a source by its format. Raises DataError when it cannot be used at all."""
    if settings.format not in FORMATS:
        raise DataError(f"source {settings.name!r} has the format {settings.format!r}: use {' or '.join(FORMATS)}")
    return FORMATS[settings.format](settings)
