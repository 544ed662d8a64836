"""The interface of stored files, local or in an object store, and the error for a file that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, NamedTuple, Protocol

SCHEMES = ("s3", "gs")
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0  # longest wait without receiving a byte


def is_remote(address: str) -> bool:
    """Returns True for an address in an object store, False for a local path."""
    scheme, separator, _ = address.partition("://")
    return bool(separator) and scheme in SCHEMES


class StorageError(OSError):
    """Raised for a file that cannot be read. The message names the file, the problem and what to do.

    Attributes:
      reason: "missing_file" or "unreadable_file", the reasons under which unusable samples are counted.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class File(Protocol):
    """An open file of known size. Several threads may read it at once. It closes when nothing refers to it."""

    @property
    def address(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def modified(self) -> int:
        """Time of the last modification in nanoseconds since 1970, as the disk or the store reports it."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """Returns exactly `length` bytes from `start`. Raises StorageError if the file has fewer or fewer arrive."""
        ...


class Stored(Protocol):
    """Bytes of an object or of a part of a larger file, read on demand."""

    def read(self) -> bytes:
        """Returns all bytes. Raises StorageError."""
        ...

    def open(self) -> BinaryIO:
        """Returns a seekable file, whose reads raise StorageError."""
        ...


class Found(NamedTuple):
    """An object as the store lists it: bucket/key, size in bytes, and a number that changes when the object is written again."""

    path: str
    size: int
    modified: int


class Opened(NamedTuple):
    """An open object: its size in bytes, and a function that reads `length` bytes from `start`."""

    size: int
    read: Callable[[int, int], bytes]


class Store(Protocol):
    """A bucket whose requests are sent once, without retries. Paths are bucket/key. Methods raise OSError, including FileNotFoundError."""

    def open(self, path: str) -> Opened: ...

    def info(self, path: str) -> Found: ...

    def files(self, folder: str, recursive: bool) -> list[Found]:
        """Returns the objects in a folder; empty if the folder does not exist."""
        ...
