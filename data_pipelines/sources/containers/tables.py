"""Tables of shards on disk: where the records of a shard lie, made once, known by the shard's content.

A folder holds for each shard ENTRY.json (fingerprint and number of samples, written last) and ENTRY.NAME for each table, where ENTRY is the
fingerprint and the kind of table; and for each place where a shard was seen which content it had, by size and time of change, so that an
unchanged file is not read again. Each file is written whole. Everything in the folder can be deleted: it is made again.
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
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.schema import DataError
from data_pipelines.storage import write_whole
from data_pipelines.storage.interface import File, StorageError

_LOCKS = 64


class Entry(NamedTuple):
    """What is known of a shard's content: its fingerprint, its number of samples, and notes of its kind (plain JSON)."""

    fingerprint: str
    samples: int
    notes: dict[str, Any]


class Tables:
    """A folder of tables. Several processes may use it at once.

    Args:
      folder: made when missing; None: a folder of this process, deleted with the object.
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
        """The entry of a file that was seen at this place with this size and time of change; None for another."""
        seen = _read(self._seen(file, kind))
        if seen is None or (seen.get("size"), seen.get("modified")) != (file.size, file.modified):
            return None
        return self.entry(str(seen.get("fingerprint")), kind)

    def entry(self, fingerprint: str, kind: str) -> Entry | None:
        """The entry of a content; None where it or one of its tables is missing."""
        values = _read(self.folder / f"{fingerprint}.{kind}.json")
        if values is None or not all(self.path(fingerprint, kind, name).exists() for name in values["tables"]):
            return None
        return Entry(fingerprint, values["samples"], values["notes"])

    def path(self, fingerprint: str, kind: str, table: str) -> pathlib.Path:
        return self.folder / f"{fingerprint}.{kind}.{table}"

    def load(self, fingerprint: str, kind: str, table: str) -> npt.NDArray[np.int64]:
        """A table of numbers, memory-mapped."""
        path = self.path(fingerprint, kind, table)
        return np.memmap(path, np.int64, "r") if path.stat().st_size else np.zeros(0, np.int64)

    def load_bytes(self, fingerprint: str, kind: str, table: str) -> mmap.mmap | bytes:
        """A table of bytes, memory-mapped."""
        path = self.path(fingerprint, kind, table)
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""

    @contextlib.contextmanager
    def locked(self, file: File) -> Iterator[None]:
        """Held by one process of a host at a time for a file; a process that is killed lets go of it."""
        number = int(hashlib.sha256(file.address.encode()).hexdigest()[:8], 16) % _LOCKS
        with contextlib.ExitStack() as stack:
            try:
                lock = stack.enter_context((self.folder / "locks" / str(number)).open("wb"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:  # some network file systems have no locks
                raise _unwritable(self.folder, error) from error
            yield

    @contextlib.contextmanager
    def draft(self, file: File, kind: str) -> Iterator[Draft]:
        """Tables of a file that are being made; without `commit` nothing is left. Raises DataError where the folder cannot be written."""
        draft = Draft(self, file, kind)
        try:
            yield draft
        except StorageError:  # the shard, not the folder
            raise
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        finally:
            draft.close()

    def remember(self, file: File, kind: str, fingerprint: str) -> None:
        place = {"address": file.address, "size": file.size, "modified": file.modified, "fingerprint": fingerprint}
        write_whole(self._seen(file, kind), json.dumps(place))

    def _seen(self, file: File, kind: str) -> pathlib.Path:
        return self.folder / f"{hashlib.sha256(file.address.encode()).hexdigest()[:32]}.{kind}.seen"


class Draft:
    """Tables of one shard while they are made. Used within `Tables.locked`: a killed process's files are written over."""

    def __init__(self, tables: Tables, file: File, kind: str):
        self._tables, self._file, self._kind = tables, file, kind
        self._folder = tables.folder / f"{hashlib.sha256(file.address.encode()).hexdigest()[:32]}.{kind}.partial"
        self._open: dict[str, IO[bytes]] = {}
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()

    def table(self, name: str) -> IO[bytes]:
        """The file of a table, to be written to."""
        if name not in self._open:
            self._open[name] = (self._folder / name).open("wb")
        return self._open[name]

    def array(self, name: str, values: npt.NDArray[np.int64]) -> None:
        """Appends to a table of numbers."""
        self.table(name).write(np.ascontiguousarray(values, np.int64).data)

    def path(self, name: str) -> pathlib.Path:
        """Where a table that is complete lies until `commit`."""
        _finish(self.table(name))
        return self._folder / name

    def commit(self, fingerprint: str, samples: int, notes: dict[str, Any] | None = None) -> Entry:
        """The tables are complete: they become those of a content."""
        for name, file in self._open.items():
            _finish(file)
            os.replace(self._folder / name, self._tables.path(fingerprint, self._kind, name))
        entry = Entry(fingerprint, samples, notes or {})
        values = {"samples": samples, "tables": sorted(self._open), "notes": entry.notes}
        write_whole(self._tables.folder / f"{fingerprint}.{self._kind}.json", json.dumps(values))
        self._tables.remember(self._file, self._kind, fingerprint)
        return entry

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _finish(file: IO[bytes]) -> None:
    if not file.closed:
        file.flush()
        os.fsync(file.fileno())
        file.close()


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _unwritable(folder: pathlib.Path, error: OSError) -> DataError:
    return DataError(f"cannot write tables of shards to {folder} ({error.strerror or error}): make room for them, or name another folder")
