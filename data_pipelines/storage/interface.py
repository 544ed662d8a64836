"""What a stored file is, wherever it lies, and the error of one that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, NamedTuple, Protocol

SCHEMES = ("s3", "gs")
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0  # without a byte


def is_remote(address: str) -> bool:
    """Whether an address is one of an object store, not a local path."""
    scheme, separator, _ = address.partition("://")
    return bool(separator) and scheme in SCHEMES


class StorageError(OSError):
    """A file that cannot be read; the message says what, where and what to do.

    Attributes:
      reason: "missing_file" or "unreadable_file", as samples count them.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class File(Protocol):
    """An open file of known size. Threads may read it at once; it closes when nothing refers to it."""

    @property
    def address(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def modified(self) -> int:
        """Nanoseconds since 1970, as the disk or the store says."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """Exactly these bytes. Raises StorageError where the file has or gives fewer."""
        ...


class Stored(Protocol):
    """Bytes in a store or within a larger file, read when they are needed."""

    def read(self) -> bytes:
        """Raises StorageError."""
        ...

    def open(self) -> BinaryIO:
        """A seekable file, whose reads raise StorageError."""
        ...


class Found(NamedTuple):
    """What a store says of an object: bucket/key, bytes, and a number that changes when it is written again."""

    path: str
    size: int
    modified: int


class Opened(NamedTuple):
    """An object that can be read: its bytes, and what reads (start, length) of them."""

    size: int
    read: Callable[[int, int], bytes]


class Store(Protocol):
    """A bucket, asked once for each request. Paths are bucket/key. Methods raise OSError, FileNotFoundError among them."""

    def open(self, path: str) -> Opened: ...

    def info(self, path: str) -> Found: ...

    def files(self, folder: str, recursive: bool) -> list[Found]:
        """The objects in a folder; none where there is no such folder."""
        ...
