"""Finds the members of a tar archive by their headers alone, so that their contents need not be read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from data_pipelines.storage.interface import File, is_remote

_BLOCK = 512
_FILES = b"0\0\x377"  # types of members with content: '0', NUL, '7'
_NOT_READ = b"12S"  # hard links, links, GNU's sparse files
_WITHOUT_CONTENT = b"123456"  # links, devices, folders, pipes
_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL = b"L", b"K", b"x", b"g"
_LARGEST_EXTENSION = 1 << 20
_LARGEST_MEMBER = 1 << 60
_OCTAL = re.compile(rb"[0-7]{0,20}")
_DECIMAL = re.compile(r"[0-9]{1,18}")


class Member(NamedTuple):
    """A file of an archive: its name, and the position and size of its content in bytes.

    In a cut archive the content may reach past the archive's end. `start` is -1 for a link, whose content is elsewhere, and for a sparse file,
    which is not stored as it is.
    """

    name: str
    start: int
    size: int


class Headers:
    """Reads the headers of an archive once.

    Attributes:
      digest: SHA-256 of the header blocks that were read.
      damage: reason why the archive ends early; "" if it does not.
    """

    def __init__(self, file: File):
        self._file = file
        # A request to a store takes as long as some megabytes of transfer, and the members of a data set are smaller than that.
        self._window = 1 << 22 if is_remote(file.address) else 1 << 14
        self._buffer, self._buffer_start = b"", 0
        self.digest = hashlib.sha256()
        self.damage = ""

    def members(self) -> Iterator[Member]:
        """Yields the files in order, and skips folders and devices. Raises StorageError."""
        at, name, size = 0, "", -1  # name and size of the next member, if an extended header gives them
        while at < self._file.size:
            header = self._read(at, _BLOCK)
            if len(header) < _BLOCK:
                self.damage = f"ends within a header, at byte {self._file.size:,}"
                return
            if not any(header):
                return
            if not is_header(header):
                self.damage = f"has no header where one belongs, at byte {at:,}"
                return
            self.digest.update(header)
            kind, content = header[156:157], _number(header[124:136])
            if kind in (_LONG_NAME, _EXTENDED, _LONG_LINK, _GLOBAL):
                text = self._read(at + _BLOCK, min(content, _LARGEST_EXTENSION))
                if len(text) < content:
                    self.damage = f"ends within a header, at byte {self._file.size:,}"
                    return
                if kind == _LONG_NAME:
                    name = _text(text)
                elif kind == _EXTENDED:
                    fields = _extended(text)
                    name = fields.get("path", name)
                    size = int(fields["size"]) if _DECIMAL.fullmatch(fields.get("size", "")) else size
                at += _BLOCK + _padded(content)
                continue
            content = size if size >= 0 else content
            if kind in _FILES or kind in _NOT_READ:
                yield Member(name or _name(header), *((at + _BLOCK, content) if kind in _FILES else (-1, 0)))
            at += _BLOCK + (0 if kind in _WITHOUT_CONTENT else _padded(content))
            name, size = "", -1
        if self._file.size:
            where = "within a member" if at > self._file.size else "without the mark of its end"
            self.damage = f"ends {where}, at byte {self._file.size:,}"

    def _read(self, start: int, length: int) -> bytes:
        """Returns `length` bytes from `start`, or fewer at the end of the archive."""
        end = min(start + length, self._file.size)
        if start < self._buffer_start or end > self._buffer_start + len(self._buffer):
            window = max(self._window, length)
            self._buffer, self._buffer_start = self._file.read(start, min(window, self._file.size - start)), start
        return self._buffer[start - self._buffer_start : end - self._buffer_start]


def is_header(header: bytes) -> bool:
    """Returns True if 512 bytes are the header of a member."""
    if len(header) < _BLOCK:
        return False
    try:
        _number(header[124:136])
        if header[257:262] == b"ustar":
            return True
        checksum = _number(header[148:156])
    except ValueError:
        return False
    unsigned = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    return checksum == unsigned


def _number(field: bytes) -> int:
    """Returns the number in a header field: octal digits, or base 256 for larger numbers. Raises ValueError, for negative numbers too."""
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if number > _LARGEST_MEMBER:
            raise ValueError(f"{number} is no size")
        return number
    digits = field.strip(b" \0")
    if not _OCTAL.fullmatch(
        digits
    ):  # int() takes signs, underscores and spaces: a negative size would lead back to the same header for ever
        raise ValueError(f"{digits!r} is no number")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""  # in GNU's format these bytes are times
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _extended(text: bytes) -> dict[str, str]:
    """Returns the fields of an extended header of POSIX archives, which has records "LENGTH KEY=VALUE\\n"."""
    fields = {}
    while text and (length := text[:10].partition(b" ")[0]).isdigit() and 0 < int(length) <= len(text):
        key, _, value = text[len(length) + 1 : int(length) - 1].partition(b"=")
        fields[key.decode(errors="replace")] = value.decode("utf-8", "backslashreplace")
        text = text[int(length) :]
    return fields


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
