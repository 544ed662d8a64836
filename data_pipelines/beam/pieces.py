"""Pieces of a source that a worker opens without the rest.

Files of one name are one piece: their keys name as much of their folders as tells them apart.
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

_DIVIDED = ("jsonl", "tar", "parquet", "arrayrecord")  # formats whose paths are files, each a shard; a source of another is one piece


class Place(NamedTuple):
    """Where a shard of a source is found: in which piece, and the number there of its first sample."""

    piece: SourceSettings
    first: int


class Division:
    """A source in pieces. Samples have the same keys in a piece and in the whole.

    Attributes:
      settings: of the whole, with its files named.
      pieces: the settings of each.

    Raises:
      DataError: its files cannot be listed.
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
        """The addresses of a piece's files; none where the format names them itself."""
        return piece.paths if self._is_divided else ()

    def places(self, shards: Sequence[Shard]) -> list[Place]:
        """Where each shard of the whole is found."""
        piece_of = {address: piece for piece in self.pieces for address in piece.paths}
        owners = [piece_of[address] for address in self.settings.paths] if self._is_divided else self.pieces * len(shards)
        places, firsts = [], collections.Counter[int]()
        for owner, shard in zip(owners, shards, strict=True):
            places.append(Place(owner, firsts[id(owner)]))
            firsts[id(owner)] += shard.samples
        return places


def tables_name(piece: SourceSettings) -> str:
    """The name of the archive that holds the tables of a piece: of its format and files alone."""
    return hashlib.sha256(repr((piece.format, piece.paths)).encode()).hexdigest()[:32] + ".tar"
