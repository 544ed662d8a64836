"""What a stored file is, wherever it lies, and the error of one that cannot be read."""

from __future__ import annotations

from typing import BinaryIO, Protocol

SCHEMES = ("s3", "gs")


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
