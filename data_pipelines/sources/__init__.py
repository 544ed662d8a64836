"""Where samples come from: JSON(L) files and TFDS datasets behind one interface."""

from __future__ import annotations

from typing import Protocol

from data_pipelines.schema import DataError, Sample, SourceSettings
from data_pipelines.sources.jsonl import JsonlSource


class Source(Protocol):
    """Samples by number, media still encoded. Safe to share between threads."""

    name: str

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


def open_source(settings: SourceSettings) -> Source:
    """Opens a source by its format. Raises DataError when it cannot be used at all."""
    if settings.format == "jsonl":
        return JsonlSource(settings)
    if settings.format == "tfds":
        from data_pipelines.sources.tfds import TfdsSource  # importing the library takes over a second

        return TfdsSource(settings)
    raise DataError(f'source {settings.name!r} has the format {settings.format!r}: use "jsonl" or "tfds"')
