"""Stores columns in a folder: .npy files that are memory-mapped, and index.json, which lists them.

index.json is written last and atomically, so that a kill leaves either the old state or the new. A file's name contains its checksum. A file
that index.json does not list is a leftover that nothing uses.
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

SMALL = 64 << 20  # size in bytes of a folder below which checksums are verified at every opening
_BLOCK = 1 << 24


class Facts(NamedTuple):
    """Counts over samples, made while their columns are written.

    Attributes:
      conversions: number of pictures of usable samples that need each of faithful.CONVERSIONS.
      failures: number of samples that could not be used when they were last checked, by reason.
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
    """A column's file: its name, number of rows, size in bytes with the header, and the SHA-256 of its values."""

    file: str
    rows: int
    bytes: int
    sha256: str


class Description(NamedTuple):
    """The content of a folder's index.json: its columns' files and the counts over its samples."""

    folder: pathlib.Path
    columns: Mapping[str, File]
    facts: Facts

    @property
    def samples(self) -> int:
        return self.columns["text"].rows

    def checksums(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Returns (name, SHA-256 of the values) of each column in `names`."""
        return [(name, self.columns[name].sha256) for name in names]


def write(folder: pathlib.Path, identity: str, parts: Iterable[Columns], names: Collection[str], facts: Facts | None = None) -> None:
    """Writes the columns `names` of consecutive parts; one part at a time is in memory.

    Args:
      folder: folder of the columns; created if missing, and its old columns are replaced. Only one process at a time may write it.
      identity: digest of what was measured, and how.
      parts: parts with the columns of columns.COLUMNS.
      facts: counts over all parts; None: they are computed here.

    Raises DataError if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".*.partial"):  # left by a process that was killed
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
    """Writes one column atomically: the file has a temporary name until it is finished."""

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
    """Returns the content of a folder's index.json; None if it is missing or damaged, or if a file's size is wrong.

    Damage is reported on standard error. Raises DataError for files that exist and cannot be read.
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
    """Memory-maps columns.

    Checksums are verified in full at every opening of a folder with less than SMALL bytes. Those of a larger folder are verified when a process
    of this host first opens it, and again if a file's size, modification time or inode has changed since.

    Args:
      verified: whether checksums are verified; if False, only types and shapes are compared.

    Raises:
      Damaged: a file is missing or differs from what was written.
    """
    try:
        columns = {name: _map(description, name) for name in names}
        if verified:
            _verify(description, columns)
    except OSError as error:
        raise Damaged(str(error)) from error
    return columns


class Damaged(Exception):
    """Raised if a folder differs from what was written. The message names what is wrong."""


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
    """Returns the header of a column's .npy file. numpy pads it, so that its length does not depend on the number of rows."""
    content, column = io.BytesIO(), COLUMNS[name]
    described = {"descr": np.dtype(column.kind).str, "fortran_order": False, "shape": (rows, *column.shape)}
    np.lib.format.write_array_header_1_0(content, described)
    return content.getvalue()


def _verify(description: Description, columns: Columns) -> None:
    """Raises Damaged if the values of a column differ from what was written."""
    folder, files = description.folder, {name: description.columns[name] for name in columns}
    note = folder / f"verified-{socket.gethostname()}.json"
    states = {
        each.file: [status.st_size, status.st_mtime_ns, status.st_ino] for each in files.values() if (status := (folder / each.file).stat())
    }
    is_small = sum(each.bytes for each in description.columns.values()) < SMALL
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if not is_small and states.items() <= json.loads(note.read_bytes()).items():
            return
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing releases Python's global interpreter lock
        for name, checksum in zip(columns, pool.map(_sha256, columns.values()), strict=True):
            if checksum != files[name].sha256:
                raise Damaged(f"the checksum of {files[name].file} is wrong")
    if not is_small:
        with contextlib.suppress(OSError):  # on a read-only disk the checksums are verified again next time
            write_whole(note, json.dumps(states))


def _sha256(values: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256()
    content: npt.NDArray[np.uint8] = values.reshape(-1).view(np.uint8)
    for start in range(0, len(content), _BLOCK):
        digest.update(content[start : start + _BLOCK])
    return digest.hexdigest()


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
