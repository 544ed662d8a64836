"""Divides a source into pieces, each of which a worker can open without the others.

Files of equal name are one piece, because the keys of their samples contain the parts of their folders that distinguish them.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources.containers import Shard
from data_pipelines.storage.interface import StorageError
from data_pipelines.storage.patterns import expand

_DIVIDED = ("jsonl", "tar", "parquet", "arrayrecord")  # formats in which each file is a shard; other sources are one piece


class Place(NamedTuple):
    """The place of a shard of a source: the settings of its piece, and the number of its first sample in that piece."""

    piece: SourceSettings
    first: int


class Division:
    """The division of a source into pieces. Samples have the same keys in a piece and in the whole source.

    Attributes:
      settings: settings of the whole source, with patterns expanded to files.
      pieces: settings of each piece.

    Raises:
      DataError: the files of the source cannot be listed.
    """

    def __init__(self, settings: SourceSettings):
        self._is_divided = settings.format in _DIVIDED
        self.settings, self.pieces = settings, [settings]
        if self._is_divided:
            try:
                self.settings = dataclasses.replace(settings, path=tuple(expand(settings.path)))
            except StorageError as error:
                raise DataError(f"source {settings.name!r}: {error}") from error
            groups = collections.defaultdict[str, list[str]](list)
            for address in self.settings.paths:
                groups[os.path.basename(address)].append(address)
            self.pieces = [dataclasses.replace(settings, path=tuple(addresses)) for addresses in groups.values()]

    def files(self, piece: SourceSettings) -> tuple[str, ...]:
        """Returns the addresses of a piece's files; empty for formats that find their files themselves."""
        return piece.paths if self._is_divided else ()

    def places(self, shards: Sequence[Shard]) -> list[Place]:
        """Returns the place of each shard of the whole source."""
        piece_of = {address: piece for piece in self.pieces for address in piece.paths}
        owners = [piece_of[address] for address in self.settings.paths] if self._is_divided else self.pieces * len(shards)
        places, firsts = [], collections.Counter[int]()
        for owner, shard in zip(owners, shards, strict=True):
            places.append(Place(owner, firsts[id(owner)]))
            firsts[id(owner)] += shard.samples
        return places


def tables_name(piece: SourceSettings) -> str:
    """Returns the name of the archive of a piece's tables, which depends only on the piece's format and files."""
    return hashlib.sha256(repr((piece.format, piece.paths)).encode()).hexdigest()[:32] + ".tar"
