"""Reads JSON lines and JSON lists, plain or compressed with gzip or Zstandard, in UTF-8, or in UTF-16 with a byte order mark.

A shard is identified by the SHA-256 of its bytes, so that every change is noticed. The table has the beginning of each line (8 bytes a line).
A file whose lines cannot be read in place (compressed files, UTF-16, JSON lists, objects of a store) has a copy as plain lines in the folder of
tables.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers import RawRecord
from data_pipelines.sources.containers.recognise import HEAD_BYTES, refuse_one_object, refuse_other_formats
from data_pipelines.sources.containers.tables import Draft, Entry, Tables
from data_pipelines.sources.json_text import read_json
from data_pipelines.storage.files import LocalFile, blocks, open_file
from data_pipelines.storage.interface import File, StorageError, is_remote

MAX_ROW_BYTES = 64 << 20
_BLOCK_BYTES = 1 << 24
_UNPACKED_BYTES = 1 << 16  # size of a decompressed block; in a damaged block the text before the damage is lost too
_FREE_UNPACKED_BYTES = 1 << 30
_MOST_RATIO = 200  # of unpacked to packed bytes, beyond _FREE_UNPACKED_BYTES: rows of text are packed to a tenth or so
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Lines:
    """The kind "jsonl"."""

    name = "jsonl1"

    def scan(self, file: File, tables: Tables, source: str) -> Entry:
        content = _Content(file)
        text = content.text()
        first = next(text, b"")
        while len(first) < HEAD_BYTES and (more := next(text, b"")):
            first += more
        refuse_other_formats(first[:HEAD_BYTES], file.address, source, "jsonl")
        with tables.draft(file, self.name) as draft:
            is_list = first.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
            rows = _list_rows(b"".join([first, *text]), file.address, source) if is_list else _chain(first, text)
            copied = is_list or content.is_encoded or is_remote(file.address)
            lines = _write_table(rows, draft, copied)
            plain: File = LocalFile(draft.rows_path()) if copied else file
            filled = lines - _write_filled(draft, plain, lines)
            if content.damage and not filled:
                raise DataError(f"source {source!r}: {file.address} {content.damage}, and no row is left: fetch it again")
            if filled == 1 and not is_list and not content.damage:
                _refuse_one_object(draft, plain, file.address, source)
            notes = {"copied": copied, "list": is_list, "damage": content.damage, "sparse": filled < lines}
            return draft.commit(content.fingerprint(), filled + bool(content.damage), notes)

    def open(self, file: File, tables: Tables, entry: Entry) -> _Reader:
        return _Reader(file, tables, entry, self.name)

    def check(self, shards: Sequence[tuple[str, Entry]], source: str) -> None:
        pass


class _Reader:
    def __init__(self, file: File, tables: Tables, entry: Entry, kind: str):
        self._address, self._entry = file.address, entry
        self._file: File = LocalFile(tables.copy(entry, kind)) if entry.notes["copied"] else file
        mapped = tables.mapped(entry, kind)
        self._starts = mapped.numbers("starts")
        self._filled = mapped.numbers("filled") if entry.notes["sparse"] else None

    def label(self, row: int) -> str:
        return f"[{row}]" if self._entry.notes["list"] else f":{self._line(row) + 1}"

    def record(self, row: int, key: str) -> RawRecord:
        if damage := self._damage(row):
            raise SampleError("broken_record", f"{key}: {self._address} {damage}; rows that followed are lost: fetch the file again")
        line = self._line(row)
        start, end = int(self._starts[line]), int(self._starts[line + 1])
        where = f"{self._address}, line {line + 1}"
        if end - start > MAX_ROW_BYTES:
            raise SampleError(
                "long_row", f"{where}: the row has {end - start:,} bytes, more than {MAX_ROW_BYTES:,}: keep media in files and name them"
            )
        try:
            return RawRecord(read_json(self._file.read(start, end - start)))
        except ValueError as error:
            raise SampleError("broken_json", f"{where}: not valid JSON ({error})") from error

    def _damage(self, row: int) -> str:
        return self._entry.notes["damage"] if row == self._entry.samples - 1 else ""

    def _line(self, row: int) -> int:
        if self._filled is not None and row < len(self._filled):
            return int(self._filled[row])
        return len(self._starts) - 1 if self._damage(row) else row


class _Content:
    """The content of a file as blocks of UTF-8, and its fingerprint.

    Attributes:
      is_encoded: whether the text differs from the file's bytes; known after the first block.
      damage: reason why the text ends early; "" if it does not.
    """

    def __init__(self, file: File):
        self._file, self._digest = file, hashlib.sha256()
        self._raw = self._blocks()
        head = file.read(0, min(file.size, 4))
        self._compression = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
        self.is_encoded = self._compression is not None
        self.damage = ""

    def _blocks(self) -> Iterator[bytes]:
        for block in blocks(self._file, _BLOCK_BYTES):
            self._digest.update(block)
            yield block

    def text(self) -> Iterator[bytes]:
        plain = self._unpacked() if self._compression else self._raw
        first = next(plain, b"")
        if not first.startswith(_UTF16) or first.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            yield from _chain(first, plain)
            return
        self.is_encoded = True
        decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")  # half a surrogate pair breaks only its line, not the file
        try:
            for block in _chain(first, plain):
                yield decoder.decode(block).encode("utf-8", "surrogatepass")
            yield decoder.decode(b"", True).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            self.damage = f"is not UTF-16 to its end ({error.reason})"

    def _unpacked(self) -> Iterator[bytes]:
        most, unpacked = max(_FREE_UNPACKED_BYTES, _MOST_RATIO * self._file.size), 0
        with pyarrow.CompressedInputStream(pyarrow.PythonFile(_Stream(self._raw), "r"), self._compression) as stream:
            while True:
                try:
                    block = stream.read(_UNPACKED_BYTES)
                except StorageError:
                    raise
                except (OSError, ValueError) as error:
                    self.damage = f"is cut short or damaged ({' '.join(str(error).split())})"
                    return
                if not block:
                    return
                unpacked += len(block)
                if unpacked > most:
                    self.damage = f"unpacks to more than {most:,} bytes, over {_MOST_RATIO} times its size,"
                    return
                yield block

    def fingerprint(self) -> str:
        for _ in self._raw:
            pass
        return self._digest.hexdigest()


class _Stream(io.RawIOBase):
    """Presents blocks as a file that is read from its beginning to its end."""

    def __init__(self, parts: Iterator[bytes]):
        self._parts, self._rest = parts, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = next(self._parts, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _write_table(text: Iterator[bytes], draft: Draft, copied: bool) -> int:
    """Writes where each line begins and the last one ends and, if `copied`, a copy of the text. Returns the number of lines."""
    at = last = lines = 0
    draft.numbers("starts", np.zeros(1, np.int64))
    for block in text:
        starts = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (at + 1)
        draft.numbers("starts", starts)
        lines += len(starts)
        last = int(starts[-1]) if len(starts) else last
        at += len(block)
        if copied:
            draft.rows().write(block)
    if copied:
        draft.rows()
    if last < at:
        draft.numbers("starts", np.array([at]))
        lines += 1
    return lines


def _write_filled(draft: Draft, plain: File, lines: int) -> int:
    """Writes the numbers of the non-empty lines, if there are empty lines. Returns the number of empty lines.

    An empty line has at most two bytes with its end, all of them white space.
    """
    starts = np.memmap(draft.path("starts"), np.int64, "r")
    empty: list[int] = []
    step = 1 << 22
    for first in range(0, lines, step):
        sizes = np.diff(starts[first : first + step + 1])
        short = (np.flatnonzero(sizes <= 2) + first).tolist()
        empty += [line for line in short if not plain.read(int(starts[line]), int(starts[line + 1] - starts[line])).strip()]
    if empty:
        draft.numbers("filled", np.setdiff1d(np.arange(lines), empty, assume_unique=True))
    return len(empty)


def _refuse_one_object(draft: Draft, plain: File, address: str, source: str) -> None:
    starts = np.memmap(draft.path("starts"), np.int64, "r")
    if starts[-1] > MAX_ROW_BYTES:
        return
    try:
        record = json.loads(plain.read(0, int(starts[-1])))
    except (ValueError, RecursionError):
        return
    refuse_one_object(record, address, source)


def raw_rows(address: str, source: str) -> Iterator[bytes]:
    """Yields the unparsed rows of one file, without line ends: the lines that are not blank, or the elements of a list.

    Raises StorageError, and DataError for a list with a syntax error.
    """
    text = _Content(open_file(address)).text()
    first = next(text, b"").removeprefix(codecs.BOM_UTF8)
    if first.lstrip()[:1] == b"[":
        yield from (row.strip() for row in _list_rows(b"".join([first, *text]), address, source))
        return
    rest = b""
    for block in _chain(first, text):
        *lines, rest = (rest + block).split(b"\n")
        yield from (row for line in lines if (row := line.strip()))
        if len(rest) > MAX_ROW_BYTES:
            raise DataError(
                f"source {source!r}: {address} has a row of more than {MAX_ROW_BYTES:,} bytes: keep media in files and name them"
            )
    if rest.strip():
        yield rest.strip()


def _list_rows(content: bytes, address: str, source: str) -> Iterator[bytes]:
    """Yields each element of a JSON list as a line. Raises DataError for a list with a syntax error."""
    try:
        text = content.decode("utf-8-sig")
        for element in _elements(text):
            yield element.replace("\n", " ").replace("\r", " ").encode() + b"\n"  # only between tokens: JSON strings contain no line ends
    except (ValueError, RecursionError) as error:
        raise DataError(f"source {source!r}: {address} is not valid JSON ({error}); mend it, or write one object a line") from error


def _elements(text: str) -> Iterator[str]:
    """Yields the JSON text of each element of a list. Raises ValueError like json.loads."""
    scan: Any = json.JSONDecoder().raw_decode
    space = json.decoder.WHITESPACE.match  # type: ignore[attr-defined]
    at = space(text, space(text, 0).end() + 1).end()
    while text[at : at + 1] != "]":
        _, end = scan(text, at)
        yield text[at:end]
        at = space(text, end).end()
        if text[at : at + 1] == ",":
            at = space(text, at + 1).end()
            if text[at : at + 1] != "]":
                continue
        elif text[at : at + 1] == "]":
            break
        raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if text[at + 1 :].strip():
        raise json.JSONDecodeError("Extra data", text, at + 1)
