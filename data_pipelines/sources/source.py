"""A source of rows: a container of records, which are read in a row dialect and whose media are under a media root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from data_pipelines.schema import Sample, SampleError, SourceSettings
from data_pipelines.sources.containers import Container, Shard
from data_pipelines.sources.samples import SampleReader
from data_pipelines.storage.interface import StorageError


class RecordSource:
    """The records of a container as samples. Safe to share between threads.

    Media are searched in the record's own files first, then under media_root.

    Raises:
      DataError: media_root is not a folder.
    """

    def __init__(self, settings: SourceSettings, container: Container):
        self.name = settings.name
        self.container = container
        self.settings = settings
        self._reader = SampleReader(settings)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, folders or patterns from which its rows are read."""
        return self.settings.paths

    @property
    def ignored(self) -> Counter[str]:
        """Keys of rows that are not read, with the number of times each was ignored so far."""
        return self._reader.ignored

    def __len__(self) -> int:
        return len(self.container)

    def __getitem__(self, index: int) -> Sample:
        """Returns a sample. Raises SampleError for a record that cannot be used."""
        key = self.container.key(index)
        record = self.container.record(index)
        try:
            return self._reader.read(record.fields, key, record.files)
        except StorageError as error:  # from a store that has the media
            raise SampleError(error.reason, f"{key}: {error}") from error

    def key(self, index: int) -> str:
        """Returns the name of a sample, usable or not."""
        return self.container.key(index)

    def shards(self) -> Sequence[Shard]:
        """Returns the source's files in order: the samples of shard k follow those of shard k - 1."""
        return self.container.shards()
