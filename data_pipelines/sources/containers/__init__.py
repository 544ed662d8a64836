"""Containers: records of one or many files by number, whatever they are stored in.

A container gives fields as JSON would; a row dialect makes a sample of them (data_pipelines/sources/samples.py). One file a container.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from data_pipelines.storage.interface import Stored


class Shard(NamedTuple):
    """One file of a container.

    Attributes:
      name: the file's name without its folder: "part-00017.tar".
      fingerprint: of its content: the same for a copy, another path or another time. containers/NAME.py says what it cannot notice.
      samples: how many it holds, broken ones among them.
    """

    name: str
    fingerprint: str
    samples: int


class RawRecord(NamedTuple):
    """One record, not yet read as a row.

    Attributes:
      fields: what JSON gives, normally a dict; rows of Parquet as plain Python values, in which bytes stay bytes.
      files: media that the container itself holds, by each name that the fields may use; not read yet.
    """

    fields: Any
    files: Mapping[str, Stored] = {}


class Container(Protocol):
    """Records of one or many shards by number. Safe to share between threads."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> RawRecord:
        """Raises SampleError "broken_json", "broken_record" or "unreadable_file" for a record that cannot be read."""
        ...

    def key(self, index: int) -> str:
        """Names a record, readable or not: "captions.jsonl:17", "shard-3.tar/000123", "part.parquet[17]"."""
        ...

    def shards(self) -> Sequence[Shard]:
        """In order: the samples of shard k follow those of shard k - 1."""
        ...
