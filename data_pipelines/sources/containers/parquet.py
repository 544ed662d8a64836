"""Reads Parquet files as Hugging Face writes them: a column for each field, media as {bytes, path} or as names of files.

Rows are read by row group, and the row groups used last are cached, up to 256 MiB. A random read of a row reads its whole row group, so that
small row groups (about 100 rows with media) are fastest. A shard is identified by its footer (schema, places, sizes and statistics of all
columns), its size and sampled blocks. If values are replaced in place by others of the same length, this may go unnoticed.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers import RawRecord
from data_pipelines.sources.containers.recognise import HEAD_BYTES, refuse_other_formats
from data_pipelines.sources.containers.sampled import sampled_digest
from data_pipelines.sources.containers.tables import Entry, Tables
from data_pipelines.storage.files import Part
from data_pipelines.storage.interface import File, StorageError

CACHED_BYTES = 256 << 20
MOST_GROUP_BYTES = 4 << 30  # of an unpacked row group
PART_BYTES = 256 << 20  # of a row group are unpacked at a time


class Parquet:
    """The kind "parquet".

    Args:
      ignore: columns that are not read.
    """

    name = "parquet1"

    def __init__(self, ignore: Sequence[str] = ()):
        self._ignore = frozenset(ignore)
        self._groups = _RowGroups(CACHED_BYTES)

    def scan(self, file: File, tables: Tables, source: str) -> Entry:
        refuse_other_formats(file.read(0, min(file.size, HEAD_BYTES)), file.address, source, "parquet")
        try:
            metadata = _opened(file).metadata
            columns = {field.name: str(field.type) for field in metadata.schema.to_arrow_schema()}
        except StorageError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"source {source!r}: {file.address} is cut short or damaged ({reason}): fetch it again") from error
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        with tables.draft(file, self.name) as draft:
            draft.numbers("groups", np.cumsum([0, *rows]))
            return draft.commit(sampled_digest(file, _footer(file)), sum(rows), {"columns": columns})

    def open(self, file: File, tables: Tables, entry: Entry) -> _Reader:
        columns = [name for name in entry.notes["columns"] if name not in self._ignore]
        return _Reader(file, tables.mapped(entry, self.name).numbers("groups").copy(), columns, self._groups)

    def check(self, shards: Sequence[tuple[str, Entry]], source: str) -> None:
        """Raises DataError if a shard has other columns than the first, since its rows would be read differently."""
        filled = [(name, entry.notes["columns"].keys() - self._ignore) for name, entry in shards if entry.samples]
        for name, columns in filled[1:]:
            first_name, first = filled[0]
            if columns != first:
                missing, more = sorted(first - columns), sorted(columns - first)
                what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(more)}"
                raise DataError(
                    f"source {source!r}: the columns of {name} and {first_name} differ: {name} {what}; make them equal, list the column in "
                    "`ignore`, or make two sources of them"
                )


class _Reader:
    def __init__(self, file: File, groups: np.ndarray, columns: list[str], cache: _RowGroups):
        self._file, self._groups, self._columns, self._cache = file, groups, columns, cache
        self._parquet = _opened(file)
        self._lock = threading.Lock()

    def label(self, row: int) -> str:
        return f"[{row}]"

    def record(self, row: int, key: str) -> RawRecord:
        group = int(np.searchsorted(self._groups, row, side="right")) - 1
        found = self._cache.get((self._file.address, group), lambda: self._read(group))
        if isinstance(found, str):
            raise SampleError("broken_record", f"{key}: row group {group} of {self._file.address} cannot be read ({found}): fetch it again")
        try:
            (fields,) = found.slice(row - int(self._groups[group]), 1).to_pylist()
        except (pyarrow.ArrowException, ValueError) as error:  # text that is not UTF-8
            raise SampleError("broken_record", f"{key}: a column cannot be read ({error})") from error
        return RawRecord(fields)

    def _read(self, group: int) -> pyarrow.Table | str:
        """Returns a row group, or the reason why it cannot be read."""
        try:
            with self._lock:  # a reader has one position
                return self._read_bounded(group)
        except StorageError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            return " ".join(str(error).split())

    def _read_bounded(self, group: int) -> pyarrow.Table:
        """Reads a row group, in parts where it might be far larger than it is stored: a dictionary holds a value once for many rows.

        Raises ValueError for more than MOST_GROUP_BYTES.
        """
        metadata = self._parquet.metadata.row_group(group)
        if metadata.num_rows * metadata.total_byte_size <= MOST_GROUP_BYTES:  # no row is larger than all values together
            return self._parquet.read_row_group(group, columns=self._columns, use_threads=False)
        rows = max(1, PART_BYTES // metadata.total_byte_size)
        parts, size = [], 0
        for part in self._parquet.iter_batches(rows, row_groups=[group], columns=self._columns, use_threads=False):
            size += part.nbytes
            if size > MOST_GROUP_BYTES:
                raise ValueError(f"it unpacks to more than {MOST_GROUP_BYTES:,} bytes: write smaller row groups")
            parts.append(part)
        return pyarrow.Table.from_batches(parts)


class _RowGroups:
    """A cache of the row groups used last, up to a number of bytes, but at least one. One thread reads a row group; others wait for it."""

    def __init__(self, most_bytes: int):
        self._most = most_bytes
        self._tables: collections.OrderedDict[Any, pyarrow.Table | str] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._reading: dict[Any, threading.Lock] = {}

    def get(self, key: Any, read: Any) -> pyarrow.Table | str:
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            with self._lock:
                if key in self._tables:
                    return self._tables[key]
            table = read()
            with self._lock:
                self._tables[key] = table
                self._bytes += _size(table)
                while self._bytes > self._most and len(self._tables) > 1:
                    self._bytes -= _size(self._tables.popitem(last=False)[1])
                self._reading.pop(key, None)
            return table


def _size(table: pyarrow.Table | str) -> int:
    return len(table) if isinstance(table, str) else table.nbytes


def _footer(file: File) -> bytes:
    """Returns the metadata at the end of a file. Their length is in the four bytes before the last four."""
    length = int.from_bytes(file.read(file.size - 8, 4), "little")
    return file.read(file.size - 8 - length, length)


def _opened(file: File) -> parquet.ParquetFile:
    return parquet.ParquetFile(pyarrow.PythonFile(Part.whole(file).open(), "r"), page_checksum_verification=True)
