"""Presents many shards of one kind as one sequence of records."""

from __future__ import annotations

import bisect
import collections
import concurrent.futures
import itertools
import os
import pathlib
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from data_pipelines.progress import progress
from data_pipelines.schema import DataError, NoSamples, SampleError
from data_pipelines.sources.containers import RawRecord, Shard
from data_pipelines.sources.containers.tables import Entry, Tables
from data_pipelines.storage.files import open_file
from data_pipelines.storage.interface import File, StorageError, is_remote
from data_pipelines.storage.patterns import expand

_PARALLEL_OPENS = 16  # objects opened at once: each waits for its store
_PARALLEL_SCANS = 4  # local files scanned at once: each waits for the disk to write its tables
_OPEN_SHARDS = 256  # open shards of all sources together: each has two open files, of the 1,024 that many systems allow


class Reader(Protocol):
    """Reads the records of one shard."""

    def record(self, row: int, key: str) -> RawRecord:
        """Returns a record. Raises SampleError if it cannot be used, StorageError if the shard cannot be read."""
        ...

    def label(self, row: int) -> str:
        """Returns the suffix of a record's key after the shard's name: ":17", "/000123", "[17]"."""
        ...


class Kind(Protocol):
    """The methods by which shards of one format are read.

    Attributes:
      name: name of the kind of tables; it changes with their layout.
    """

    name: str

    def scan(self, file: File, tables: Tables, source: str) -> Entry:
        """Reads a shard once, and writes its tables. Raises DataError if the shard cannot be used at all, and StorageError."""
        ...

    def open(self, file: File, tables: Tables, entry: Entry) -> Reader: ...

    def check(self, shards: Sequence[tuple[str, Entry]], source: str) -> None:
        """Raises DataError if shards, given as (name, entry), do not belong together."""
        ...


class Shards:
    """The records of the shards that match patterns, in the order of the patterns.

    Missing tables are made; processes that open the same shards at once share the work. Each shard takes about two kilobytes of memory. The
    tables of up to 256 shards of a process are memory-mapped; the parts in use are in the page cache.

    Raises:
      DataError: no file matches, a file cannot be read or is of another kind, or all files are empty.
    """

    def __init__(self, kind: Kind, patterns: str | Sequence[str], tables: Tables, source: str):
        self._kind, self._tables, self._source = kind, tables, source
        try:
            self._addresses = expand(patterns)
            self._states, entries = self._look()
        except StorageError as error:
            raise DataError(f"source {source!r}: {error}") from error
        self._shards = [Shard(os.path.basename(a), e.fingerprint, e.samples) for a, e in zip(self._addresses, entries, strict=True)]
        self._names = distinct_names(self._addresses)
        kind.check(list(zip(self._names, entries, strict=True)), source)
        self._ends = list(itertools.accumulate(entry.samples for entry in entries))
        if not len(self):
            raise NoSamples(
                f"source {source!r}: {_listed(self._addresses)} holds no samples; give it some or take it out of the configuration"
            )
        self._entries = entries
        weakref.finalize(self, _OPEN.forget, id(self))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def shards(self) -> Sequence[Shard]:
        return self._shards

    def record(self, index: int) -> RawRecord:
        shard, row = self._find(index)
        try:
            reader = self._reader(shard)
            return reader.record(row, self._names[shard] + reader.label(row))
        except StorageError as error:
            raise SampleError(error.reason, f"{self.key(index)}: {error}") from error

    def key(self, index: int) -> str:
        shard, row = self._find(index)
        try:
            return self._names[shard] + self._reader(shard).label(row)
        except StorageError:
            return f"{self._names[shard]}[{row}]"

    def _reader(self, shard: int) -> Reader:
        return _OPEN.get(id(self), shard, lambda: self._open(shard))

    def _open(self, shard: int) -> Reader:
        file = open_file(self._addresses[shard])
        if _state(file) != self._states[shard]:
            raise StorageError("unreadable_file", f"{file.address} was written again since the source was opened: start again")
        return self._kind.open(file, self._tables, self._entries[shard])

    def _find(self, index: int) -> tuple[int, int]:
        """Returns (shard, row in the shard) of a record."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _look(self) -> tuple[list[tuple[int, int]], list[Entry]]:
        """Returns the state and the entry of each shard, after scanning new shards.

        Each process takes the shards in an order of its own, so that processes scan different new shards.
        """
        order = list(range(len(self._addresses)))
        random.Random(os.getpid()).shuffle(order)
        remote = any(map(is_remote, self._addresses))
        with concurrent.futures.ThreadPoolExecutor(_PARALLEL_OPENS if remote else _PARALLEL_SCANS) as pool:
            found = pool.map(self._entry, [self._addresses[number] for number in order])
            looked = dict(zip(order, progress(found, len(order), f"opening {self._source}"), strict=True))
        return [looked[number][0] for number in range(len(order))], [looked[number][1] for number in range(len(order))]

    def _entry(self, address: str) -> tuple[tuple[int, int], Entry]:
        file = open_file(address)
        entry = self._tables.known(file, self._kind.name)
        if entry is None:
            with self._tables.locked(file):
                entry = self._tables.known(file, self._kind.name) or self._kind.scan(file, self._tables, self._source)
        return _state(file), entry


def _state(file: File) -> tuple[int, int]:
    """Returns size and modification time, which change if a file is written again; for an object only the size, since more costs a request."""
    return file.size, 0 if is_remote(file.address) else file.modified


class _OpenShards:
    """A cache of the readers of the shards used last, over all containers of this process."""

    def __init__(self, most: int):
        self._most, self._lock = most, threading.RLock()  # the garbage collector may call `forget` at any time
        self._readers: collections.OrderedDict[tuple[int, int], Reader] = collections.OrderedDict()

    def get(self, owner: int, shard: int, opened: Callable[[], Reader]) -> Reader:
        """Returns the reader of an owner's shard. A reader that is evicted closes once no thread uses it."""
        with self._lock:
            if (owner, shard) in self._readers:
                self._readers.move_to_end((owner, shard))
                return self._readers[owner, shard]
        reader = opened()
        with self._lock:
            self._readers[owner, shard] = reader
            if len(self._readers) > self._most:
                self._readers.popitem(last=False)
        return reader

    def forget(self, owner: int) -> None:
        with self._lock:
            for key in list(self._readers):
                if key[0] == owner:
                    self._readers.pop(key, None)


_OPEN = _OpenShards(_OPEN_SHARDS)


def distinct_names(addresses: Sequence[str]) -> list[str]:
    """Returns the names of files without their folders; files of equal name have as many parts of the folder as distinguish them."""
    parts = [pathlib.PurePath(address).parts for address in addresses]
    names = ["/".join(each[-1:]) for each in parts]
    for depth in range(2, max(map(len, parts), default=1) + 1):
        counts = Counter(names)
        if counts.most_common(1)[0][1] == 1:
            break
        names = ["/".join(each[-depth:]) if counts[name] > 1 else name for each, name in zip(parts, names, strict=True)]
    return names


def _listed(addresses: Sequence[str]) -> str:
    return addresses[0] if len(addresses) == 1 else f"{addresses[0]} and {len(addresses) - 1} more"
