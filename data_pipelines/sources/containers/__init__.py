"""Containers: access by number to the records of one or many files, with one module for each file format.

A container returns fields as JSON would; a row dialect converts them to a sample (data_pipelines/sources/samples.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from data_pipelines.storage.interface import Stored


class Shard(NamedTuple):
    """One file of a container.

    Attributes:
      name: the file's name without its folder: "part-00017.tar".
      fingerprint: digest of the content, independent of path and modification time. containers/NAME.py names the changes that it misses.
      samples: number of samples, including broken ones.
    """

    name: str
    fingerprint: str
    samples: int


class RawRecord(NamedTuple):
    """One record, not yet read as a row.

    Attributes:
      fields: parsed JSON, normally a dict; for Parquet the row as plain Python values, in which bytes stay bytes.
      files: media inside the container, not read yet, under each name that the fields may use for them.
    """

    fields: Any
    files: Mapping[str, Stored] = {}


class Container(Protocol):
    """Records of one or many shards by number. Safe to share between threads."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> RawRecord:
        """Returns a record. Raises SampleError "broken_json", "broken_record" or "unreadable_file" if it cannot be read."""
        ...

    def key(self, index: int) -> str:
        """Returns the name of a record, readable or not: "captions.jsonl:17", "shard-3.tar/000123", "part.parquet[17]"."""
        ...

    def shards(self) -> Sequence[Shard]:
        """Returns the shards in order: the samples of shard k follow those of shard k - 1."""
        ...
