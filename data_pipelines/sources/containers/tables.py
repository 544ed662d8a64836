"""Tables of shards on disk: the positions of a shard's records, found once and stored under the fingerprint of the shard's content.

For each shard a folder has ENTRY.tables (all its tables), ENTRY.rows (a plain copy, for shards that need one) and, written last, ENTRY.json
(number of samples, positions of the tables in their file), where ENTRY is the fingerprint and the kind of table. For each address at which a
shard was seen, a file ending in .seen has its size, modification time and fingerprint, so that an unchanged file is not read again. All files
are written atomically. Everything in the folder can be deleted: it is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.schema import DataError
from data_pipelines.storage import write_whole
from data_pipelines.storage.interface import File, StorageError, is_remote

_LOCKS = 64
_ROWS = "rows"
_COPIED_BYTES = 1 << 24


class Entry(NamedTuple):
    """The description of a shard's content.

    Attributes:
      fingerprint: fingerprint of the content.
      samples: number of samples.
      notes: data of the shard's kind, as plain JSON.
      places: (first byte, number of bytes) of each table in the file of tables.
    """

    fingerprint: str
    samples: int
    notes: dict[str, Any]
    places: dict[str, tuple[int, int]]


class Mapped:
    """The tables of a shard, memory-mapped."""

    def __init__(self, path: pathlib.Path, places: Mapping[str, tuple[int, int]]):
        self._places = places
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if any(size for _, size in places.values()) else b""

    def numbers(self, table: str) -> npt.NDArray[np.int64]:
        start, size = self._places[table]
        return np.frombuffer(self._map, np.int64, size // 8, start) if size else np.zeros(0, np.int64)

    def text(self, table: str) -> memoryview:
        start, size = self._places[table]
        return memoryview(self._map)[start : start + size]


class Tables:
    """A folder of tables. Several processes may use it at once.

    Args:
      folder: path of the folder; created if missing. None: a temporary folder of this process, deleted with the object.
    """

    def __init__(self, folder: pathlib.Path | None):
        try:
            if folder is None:
                folder = pathlib.Path(tempfile.mkdtemp(prefix="tables-"))
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self.folder = folder
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder or pathlib.Path(tempfile.gettempdir()), error) from error

    def known(self, file: File, kind: str) -> Entry | None:
        """Returns the entry of a file that was seen at this address with this size and modification time; else None."""
        seen = _read(self._seen(file, kind))
        if seen is None or (seen.get("size"), seen.get("modified")) != (file.size, file.modified):
            return None
        return self.entry(str(seen.get("fingerprint")), kind)

    def has_seen(self, file: File) -> bool:
        """Returns True if a file of any kind was seen at this address with this size and modification time."""
        states = [_read(path) or {} for path in self.folder.glob(f"{_digest(file)}.*.seen")]
        return any((seen.get("size"), seen.get("modified")) == (file.size, file.modified) for seen in states)

    def entry(self, fingerprint: str, kind: str) -> Entry | None:
        """Returns the entry of a content; None if it or one of its files is missing."""
        values = _read(self._path(fingerprint, kind, "json"))
        if values is None or not all(os.path.exists(self._path(fingerprint, kind, ending)) for ending in values["files"]):
            return None
        return Entry(fingerprint, values["samples"], values["notes"], values["places"])

    def mapped(self, entry: Entry, kind: str) -> Mapped:
        return Mapped(self._path(entry.fingerprint, kind, "tables"), entry.places)

    def copy(self, entry: Entry, kind: str) -> str:
        """Returns the path of the plain copy of a shard."""
        return str(self._path(entry.fingerprint, kind, "rows"))

    def _path(self, fingerprint: str, kind: str, ending: str) -> pathlib.Path:
        return self.folder / f"{fingerprint}.{kind}.{ending}"

    @contextlib.contextmanager
    def locked(self, file: File) -> Iterator[None]:
        """Holds a lock for a file, which one process of a host has at a time. It is released if the process is killed."""
        number = int(_digest(file)[:8], 16) % _LOCKS
        with contextlib.ExitStack() as stack:
            try:
                lock = stack.enter_context((self.folder / "locks" / str(number)).open("wb"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:  # some network file systems have no locks
                raise _unwritable(self.folder, error) from error
            yield

    @contextlib.contextmanager
    def draft(self, file: File, kind: str) -> Iterator[Draft]:
        """Yields a draft of a file's tables; without `commit` nothing of it is kept. Raises DataError if the folder cannot be written."""
        draft = Draft(self, file, kind)
        try:
            yield draft
        except StorageError:  # an error of the shard, not of the folder
            raise
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        finally:
            draft.close()

    def remember(self, file: File, kind: str, fingerprint: str) -> None:
        place = {"address": file.address, "size": file.size, "modified": file.modified, "fingerprint": fingerprint}
        write_whole(self._seen(file, kind), json.dumps(place))

    def _seen(self, file: File, kind: str) -> pathlib.Path:
        return self.folder / f"{_digest(file)}.{kind}.seen"


class Draft:
    """Tables of one shard while they are made. To be used within `Tables.locked`: it deletes the files that a killed process left."""

    def __init__(self, tables: Tables, file: File, kind: str):
        self._tables, self._file, self._kind = tables, file, kind
        self._folder = tables.folder / f"{_digest(file)}.{kind}.partial"
        self._open: dict[str, IO[bytes]] = {}
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()

    def table(self, name: str) -> IO[bytes]:
        """Returns the file of a table for writing."""
        if name not in self._open:
            self._open[name] = (self._folder / name).open("w+b")
        return self._open[name]

    def rows(self) -> IO[bytes]:
        """Returns the file of the plain copy for writing."""
        return self.table(_ROWS)

    def numbers(self, name: str, values: npt.NDArray[np.int64]) -> None:
        """Appends to a table of numbers."""
        self.table(name).write(np.ascontiguousarray(values, np.int64).data)

    def path(self, name: str) -> pathlib.Path:
        """Returns the path that a table has until `commit`, after flushing it."""
        self.table(name).flush()
        return self._folder / name

    def rows_path(self) -> str:
        """Returns the path that the plain copy has until `commit`, after flushing it."""
        return str(self.path(_ROWS))

    def commit(self, fingerprint: str, samples: int, notes: dict[str, Any] | None = None) -> Entry:
        """Moves the complete tables to their final names under a content's fingerprint, and returns the entry."""
        rows = self._open.pop(_ROWS, None)
        files = {"rows": rows} if rows else {}
        places = {}
        if self._open:
            joined, *others = self._open.values()
            for name, table in self._open.items():
                size = table.tell()
                start = joined.seek(0, os.SEEK_END) if others and table is not joined else 0
                if table is not joined:
                    start += joined.write(bytes(-start % 8))
                    table.seek(0)
                    shutil.copyfileobj(table, joined, _COPIED_BYTES)
                places[name] = start, size
            files["tables"] = joined
        for ending, file in files.items():
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, self._tables._path(fingerprint, self._kind, ending))
        entry = Entry(fingerprint, samples, notes or {}, places)
        values = {"samples": samples, "files": sorted(files), "notes": entry.notes, "places": places}
        write_whole(self._tables._path(fingerprint, self._kind, "json"), json.dumps(values))
        self._tables.remember(self._file, self._kind, fingerprint)
        if rows:
            rows.close()
        return entry

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def ends(counts: Iterable[int]) -> npt.NDArray[np.int64]:
    """Returns 0 and the cumulative sums of counts: the position at which each group of a table ends."""
    return np.cumsum([0, *counts])


def _digest(file: File) -> str:
    """Returns a digest of a file's address."""
    place = file.address if is_remote(file.address) else os.path.abspath(file.address)
    return hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()[:32]


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _unwritable(folder: pathlib.Path, error: OSError) -> DataError:
    return DataError(f"cannot write tables of shards to {folder} ({error.strerror or error}): make room for them, or name another folder")
