"""Columns in a folder: plain .npy files that are mapped into memory, and index.json that says which.

index.json is written last and whole, so that a kill leaves what was there before or what is there after. A file's name holds its checksum; a
file that index.json does not name is left over and belongs to nobody.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import pathlib
import secrets
import socket
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.index.columns import COLUMNS, Columns, failures_of
from data_pipelines.media import faithful
from data_pipelines.schema import DataError
from data_pipelines.storage import write_whole

SMALL = 64 << 20  # bytes of a folder's files whose checksums are verified at every opening
_BLOCK = 1 << 24


class Facts(NamedTuple):
    """What is counted of samples while their columns are written.

    Attributes:
      conversions: pictures of usable samples that need each of faithful.CONVERSIONS.
      failures: how many samples could not be used when they were last looked at, by reason.
    """

    conversions: collections.Counter[str]
    failures: collections.Counter[str]

    @classmethod
    def of(cls, columns: Columns) -> Facts:
        usable = ~np.isin(columns["conversion_sample"], columns["failure_sample"])
        counts = np.bincount(columns["conversions"][usable], minlength=len(faithful.CONVERSIONS)).tolist()
        failures = failures_of(columns).values()
        return cls(
            collections.Counter({name: count for name, count in zip(faithful.CONVERSIONS, counts, strict=True) if count}),
            collections.Counter(failure.reason for failure in failures),
        )

    @classmethod
    def total(cls, facts: Iterable[Facts]) -> Facts:
        result = cls(collections.Counter(), collections.Counter())
        for each in facts:
            result.conversions.update(each.conversions)
            result.failures.update(each.failures)
        return result


class File(NamedTuple):
    """A column's file: its name, values, bytes with the header, and the SHA-256 of its values."""

    file: str
    rows: int
    bytes: int
    sha256: str


class Description(NamedTuple):
    """A folder of columns: what index.json says."""

    folder: pathlib.Path
    columns: Mapping[str, File]
    facts: Facts

    @property
    def samples(self) -> int:
        return self.columns["text"].rows

    def checksums(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """(name, SHA-256 of the values) of columns."""
        return [(name, self.columns[name].sha256) for name in names]


def write(folder: pathlib.Path, identity: str, parts: Iterable[Columns], names: Collection[str], facts: Facts | None = None) -> None:
    """Writes the columns `names` of parts that follow one another; one part at a time is in memory.

    Args:
      folder: made when missing; what it held is replaced. One process at a time may write it.
      identity: of what was measured, and how.
      parts: with the columns of columns.COLUMNS.
      facts: of all parts; None: they are counted.

    Raises DataError where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".*.partial"):  # of a process that was killed
            path.unlink(missing_ok=True)
        with contextlib.ExitStack() as files:
            writers = {name: files.enter_context(_Writer(folder, name)) for name in names}
            rows: collections.Counter[str] = collections.Counter()
            counted: list[Facts] = []
            for part in parts:
                for name, writer in writers.items():
                    counts = COLUMNS[name].counts
                    writer.append(part[name] + rows[counts] if counts and rows[counts] else part[name])
                rows.update({name: len(part[name]) for name in names})
                counted += [Facts.of(part)] if facts is None else []
            described = {name: writer.finish() for name, writer in writers.items()}
        facts = facts or Facts.total(counted)
        document: dict[str, Any] = {"identity": identity, "columns": {name: each._asdict() for name, each in described.items()}}
        document |= {"conversions": dict(sorted(facts.conversions.items())), "failures": dict(sorted(facts.failures.items()))}
        write_whole(folder / "index.json", json.dumps(document | {"checksum": _checksum(document)}, indent=1))
        for path in folder.glob("*.npy"):
            if path.name not in {each.file for each in described.values()}:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write the index {folder} ({error}): make room for it, or name another index_folder") from error


class _Writer:
    """One column, written whole: under another name until it is finished."""

    def __init__(self, folder: pathlib.Path, name: str):
        self._folder, self._name = folder, name
        self._partial = folder / f".{name}.{secrets.token_hex(4)}.partial"
        self._rows, self._digest = 0, hashlib.sha256()
        self._file: BinaryIO = self._partial.open("wb")
        self._file.write(_header(name, 0))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def append(self, values: npt.NDArray[Any]) -> None:
        content: npt.NDArray[Any] = np.ascontiguousarray(values, COLUMNS[self._name].kind)
        self._rows += len(content)
        self._digest.update(content)
        self._file.write(content.data if content.size else b"")

    def finish(self) -> File:
        self._file.seek(0)
        self._file.write(_header(self._name, self._rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        checksum = self._digest.hexdigest()
        path = self._folder / f"{self._name}-{checksum[:16]}.npy"
        os.replace(self._partial, path)
        return File(path.name, self._rows, path.stat().st_size, checksum)


def describe(folder: pathlib.Path, identity: str, names: Collection[str]) -> Description | None:
    """What index.json says of a folder; None if there is none, or if it or a file's size is damaged, which is said on standard error.

    Raises DataError for files that are there and cannot be read.
    """
    for _ in range(3):
        try:
            return _describe(folder, identity, names)
        except (FileNotFoundError, NotADirectoryError) as error:
            problem = str(error)  # another process may have replaced the files meanwhile
        except Damaged as error:
            problem = str(error)
            break
        except OSError as error:
            raise DataError(f"cannot read the index {folder} ({error}): make it readable, or delete it to build it again") from error
    if (folder / "index.json").exists():
        print(f"the index {folder} is damaged ({problem}): it is built again (deleting it does the same)", file=sys.stderr, flush=True)
    return None


def load(description: Description, names: Collection[str], verified: bool = True) -> Columns:
    """Maps columns into memory.

    Checksums are verified in full at every opening of a folder with less than SMALL bytes; of a larger one when a process of this host opens
    it for the first time, and again when a file's size, time or inode differs from what they were then.

    Args:
      verified: False: types and shapes alone are compared.

    Raises:
      Damaged: a file is gone, or is not what was written.
    """
    try:
        columns = {name: _map(description, name) for name in names}
        if verified:
            _verify(description, columns)
    except OSError as error:
        raise Damaged(str(error)) from error
    return columns


class Damaged(Exception):
    """A folder is not what was written; the message says what is wrong."""


def _describe(folder: pathlib.Path, identity: str, names: Collection[str]) -> Description:
    content = (folder / "index.json").read_bytes()
    try:
        found = json.loads(content)
        checksum = found.pop("checksum")
        if checksum != _checksum(found) or found["identity"] != identity or set(found["columns"]) != set(names):
            raise Damaged("index.json")
        columns = {name: File(**each) for name, each in found["columns"].items()}
        facts = Facts(collections.Counter(found["conversions"]), collections.Counter(found["failures"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("index.json") from error
    for each in columns.values():
        if (size := (folder / each.file).stat().st_size) != each.bytes:
            raise Damaged(f"{each.file} has {size} bytes, not {each.bytes}")
    return Description(folder, columns, facts)


def _map(description: Description, name: str) -> npt.NDArray[Any]:
    each, column = description.columns[name], COLUMNS[name]
    header = _header(name, each.rows)
    with (description.folder / each.file).open("rb") as file:
        if file.read(len(header)) != header:
            raise Damaged(f"the header of {each.file}")
        values: npt.NDArray[Any] = np.zeros((0, *column.shape), column.kind)
        if each.rows:
            values = np.asarray(np.memmap(file, column.kind, "r", len(header), (each.rows, *column.shape)))
    return values


def _header(name: str, rows: int) -> bytes:
    """The header of a column's .npy file. numpy pads it, so that one with more rows is as long."""
    content, column = io.BytesIO(), COLUMNS[name]
    described = {"descr": np.dtype(column.kind).str, "fortran_order": False, "shape": (rows, *column.shape)}
    np.lib.format.write_array_header_1_0(content, described)
    return content.getvalue()


def _verify(description: Description, columns: Columns) -> None:
    """Raises Damaged for values that are not those that were written."""
    folder, files = description.folder, {name: description.columns[name] for name in columns}
    note = folder / f"verified-{socket.gethostname()}.json"
    states = {
        each.file: [status.st_size, status.st_mtime_ns, status.st_ino] for each in files.values() if (status := (folder / each.file).stat())
    }
    is_small = sum(each.bytes for each in description.columns.values()) < SMALL
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if not is_small and states.items() <= json.loads(note.read_bytes()).items():
            return
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets other threads run
        for name, checksum in zip(columns, pool.map(_sha256, columns.values()), strict=True):
            if checksum != files[name].sha256:
                raise Damaged(f"the checksum of {files[name].file} is wrong")
    if not is_small:
        with contextlib.suppress(OSError):  # a disk that is read-only: verified again next time
            write_whole(note, json.dumps(states))


def _sha256(values: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256()
    content: npt.NDArray[np.uint8] = values.reshape(-1).view(np.uint8)
    for start in range(0, len(content), _BLOCK):
        digest.update(content[start : start + _BLOCK])
    return digest.hexdigest()


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
