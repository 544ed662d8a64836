"""Opens local files and objects of stores (s3://bucket/key, gs://bucket/key) for reads by offset, which threads may share."""

from __future__ import annotations

import concurrent.futures
import io
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from data_pipelines.storage.interface import File, StorageError, is_remote

_PARALLEL_READS = 16
_BUFFER_BYTES = 1 << 16
_REMOTE_BUFFER_BYTES = 1 << 20  # a request to a store takes about as long as transferring that many bytes


def open_file(address: str) -> File:
    """Opens a local path or an object. Raises StorageError."""
    if is_remote(address):
        from data_pipelines.storage.objects import ObjectFile  # imports pyarrow

        return ObjectFile(address)
    return LocalFile(address)


class LocalFile:
    """A file on a local disk, read by offset."""

    def __init__(self, path: str):
        self.address = path
        try:
            self._file = io.FileIO(path)
            status = os.fstat(self._file.fileno())
        except OSError as error:
            raise _local_error(path, error) from error
        self.size, self.modified = status.st_size, status.st_mtime_ns

    def read(self, start: int, length: int) -> bytes:
        parts = []
        while length > 0:
            try:
                part = os.pread(self._file.fileno(), length, start)
            except OSError as error:
                raise _local_error(self.address, error) from error
            if not part:
                raise StorageError("unreadable_file", f"{self.address} ends at byte {start:,}, {length:,} bytes early: fetch it again")
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _local_error(path: str, error: OSError) -> StorageError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return StorageError("missing_file", f"cannot read {path} ({error.strerror}): check the name")
    return StorageError("unreadable_file", f"cannot read {path} ({error.strerror}): make it a readable file")


class Part(NamedTuple):
    """A range of bytes of an open file: a member of an archive, or a whole file or object."""

    file: File
    start: int
    size: int

    @classmethod
    def whole(cls, file: File) -> Part:
        return cls(file, 0, file.size)

    def read(self) -> bytes:
        return self.file.read(self.start, self.size)

    def open(self) -> BinaryIO:
        return io.BufferedReader(_PartReader(self), _REMOTE_BUFFER_BYTES if is_remote(self.file.address) else _BUFFER_BYTES)


class Whole(NamedTuple):
    """A whole file that is opened at each read."""

    address: str

    def read(self) -> bytes:
        return Part.whole(open_file(self.address)).read()

    def open(self) -> BinaryIO:
        return Part.whole(open_file(self.address)).open()


class _PartReader(io.RawIOBase):
    def __init__(self, part: Part):
        self._part, self._at = part, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._part.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readall(self) -> bytes:
        """Returns the bytes from the current position to the end, in one read."""
        data = self._part.file.read(self._part.start + self._at, max(0, self._part.size - self._at))
        self._at += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._part.size - self._at))
        if length:
            buffer[:length] = self._part.file.read(self._part.start + self._at, length)
        self._at += length
        return length


class Listed(NamedTuple):
    """A file of a folder: its name relative to the folder, its size in bytes and its modification time in nanoseconds."""

    name: str
    size: int
    modified: int


def listing(folder: str) -> list[Listed]:
    """Returns the files of a folder and its subfolders, sorted by name.

    Hidden files and folders are left out. Links to folders are not followed. Raises StorageError.
    """
    if is_remote(folder):
        from data_pipelines.storage.objects import objects_in  # imports pyarrow

        found = [Listed(*each) for each in objects_in(folder)]
    else:
        if not os.path.isdir(folder):
            raise StorageError("missing_file", f"{folder} is not a folder: check the name")
        found = list(_listed(folder, ""))
    return sorted(each for each in found if not any(part.startswith(".") for part in each.name.split("/")))


def _listed(folder: str, within: str) -> Iterator[Listed]:
    try:
        with os.scandir(os.path.join(folder, within)) as entries:
            for entry in entries:
                name = f"{within}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    yield from _listed(folder, f"{name}/")
                elif entry.is_file():
                    status = entry.stat()
                    yield Listed(name, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise _local_error(os.path.join(folder, within), error) from error


def read_many(parts: Sequence[Part]) -> list[bytes]:
    """Returns the bytes of several parts, reading at most _PARALLEL_READS of them at once. Raises StorageError."""
    if len(parts) < 2:
        return [part.read() for part in parts]
    with concurrent.futures.ThreadPoolExecutor(min(len(parts), _PARALLEL_READS)) as pool:
        return list(pool.map(Part.read, parts))


def blocks(file: File, size: int = 1 << 24) -> Iterator[bytes]:
    """Yields a file in blocks of `size` bytes, reading the next block while the caller uses the current one. Raises StorageError."""
    starts = range(0, file.size, size)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        coming = None
        for start in starts:
            later = pool.submit(file.read, start, min(size, file.size - start))
            if coming is not None:
                yield coming.result()
            coming = later
        if coming is not None:
            yield coming.result()
