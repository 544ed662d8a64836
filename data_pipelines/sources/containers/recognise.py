"""Recognises a file's format by its first bytes. A file of another format than its source's is refused, before each record counts as broken."""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from data_pipelines.media.impostors import WRAPPED
from data_pipelines.schema import DataError
from data_pipelines.storage.files import open_file
from data_pipelines.storage.interface import StorageError
from data_pipelines.storage.patterns import expand

HEAD_BYTES = 1 << 16
WANTED = {  # by format: name of the expected file in messages
    "jsonl": "JSON lines nor a JSON list",
    "tar": "a tar archive",
    "parquet": "a Parquet file",
    "arrayrecord": "an ArrayRecord file",
}
_LINES = 20  # number of first lines that are checked: if none begins as an object, the file is not JSON lines
_EXPORT = "write one JSON object a line (with pandas: frame.to_json(PATH, orient='records', lines=True))"
_UTF8 = "write it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
_ARRAY_RECORD = bytes.fromhex("83af70d10d884a3f")  # Riegeli's signature, at the end of the first 24 bytes


class Found(NamedTuple):
    """The kind of a file, the advice what to do with it, and the source format that reads it ("" for none)."""

    what: str
    advice: str
    format: str = ""


_MAGIC: tuple[tuple[bytes, Found], ...] = (
    (b"PAR1", Found("a Parquet file", "", "parquet")),
    (b"ARROW1", Found("an Arrow file", _EXPORT)),
    (b"\xff\xff\xff\xff", Found("an Arrow stream", _EXPORT)),
    (b"ORC", Found("an ORC file", _EXPORT)),
    (b"SQLite format 3\0", Found("an SQLite database", _EXPORT)),
    (b"\x89HDF", Found("an HDF5 file", _EXPORT)),
    *((magic, Found(*wrapped)) for magic, wrapped in WRAPPED.items()),
    (b"%PDF", Found("a PDF document", _EXPORT)),
    (b"\xff\xfe\0\0", Found("text in UTF-32", _UTF8.replace("UTF-16", "UTF-32"))),
    (b"\0\0\xfe\xff", Found("text in UTF-32", _UTF8.replace("UTF-16", "UTF-32"))),
    (b"\xff\xfe", Found("text in UTF-16", _UTF8)),
    (b"\xfe\xff", Found("text in UTF-16", _UTF8)),
)


def refuse_other_formats(head: bytes, address: str, source: str, format: str) -> None:
    """Raises DataError if a file is not of its source's format, naming its kind and what to do. An empty file passes.

    Args:
      head: first HEAD_BYTES of the file; for JSON lines after decompression and conversion to UTF-8.
      address: address of the file for messages.
      source: name of the source for messages.
      format: format of the source.
    """
    found = recognise(head)
    if found is not None and found.format != format:
        advice = f'set the source\'s format to "{found.format}"' if found.format else found.advice
        raise DataError(f"source {source!r}: {address} is {found.what}, not {WANTED[format]}: {advice}")


def recognise(head: bytes) -> Found | None:
    """Returns the kind of a file, given its first bytes; None for an empty file."""
    return _binary(head) or _text(head.removeprefix(b"\xef\xbb\xbf").lstrip())


def format_of(path: str) -> str:
    """Returns the format of a file, a pattern or a folder, recognised by its content.

    Returns "jsonl" if the format cannot be recognised: opening the file as such reports the error.
    """
    try:
        first = expand(path)[0]
        if os.path.isdir(first):
            return "tfds" if _is_tfds(first) else "folder"
        file = open_file(first)
        found = recognise(file.read(0, min(file.size, HEAD_BYTES)))
    except StorageError:
        return "tfds" if os.path.isdir(os.path.expanduser(path.rpartition(":")[0])) else "jsonl"
    return (found.format if found else "") or "jsonl"


def _is_tfds(folder: str) -> bool:
    """Returns True if a folder is a TFDS dataset, or contains the folders of its versions."""
    return any(os.path.exists(os.path.join(folder, place, "features.json")) for place in ("", *os.listdir(folder)))


def rows_of_one_object(record: object) -> str | None:
    """Returns the key of the list of rows in an object that is a whole file; None if the object is itself a row."""
    if not isinstance(record, dict) or record.keys() & {"conversations", "messages"}:
        return None
    return next((key for key, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict)), None)


def refuse_one_object(record: object, address: str, source: str) -> None:
    """Raises DataError if `record`, the only record of a file, is an object with a list of rows."""
    rows = rows_of_one_object(record)
    if rows is not None:
        found = _one_object(rows)
        raise DataError(f"source {source!r}: {address} is {found.what}, not {WANTED['jsonl']}: {found.advice}")


def _binary(head: bytes) -> Found | None:
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if head[257:262] == b"ustar":
        return Found("a tar archive", "", "tar")
    if _ARRAY_RECORD in head[:64]:
        return Found("an ArrayRecord file", "", "arrayrecord")
    if b"\0" not in head[:512]:
        return None
    if head[:64].count(0) * 4 >= len(head[:64]):
        return Found("text in UTF-16 or UTF-32", _UTF8)
    # A NUL within a line of JSON breaks only that line.
    return None if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[") else Found("a binary file", _EXPORT)


def _text(head: bytes) -> Found | None:
    lines = [line.strip() for line in head.split(b"\n") if line.strip()][:_LINES]
    if not lines:
        return None
    json_lines = Found("JSON", "", "jsonl")
    if head[:1] == b"[":
        return json_lines
    if any(line[:1] == b"{" for line in lines):
        return _pretty(head, lines) or json_lines
    first = lines[0][:80].decode(errors="replace")
    if head[:1] == b"<":
        return Found(f"HTML or XML (it begins with {first!r})", "download the data itself, not the page about it")
    for separator, name in ((b",", "CSV"), (b"\t", "TSV")):
        if lines[0].count(separator):
            return Found(f"{name} (it begins with {first!r})", _EXPORT)
    return Found(f"text (it begins with {first!r})", "write one JSON object a line")


def _pretty(head: bytes, lines: list[bytes]) -> Found | None:
    """Recognises an object that spans several lines: its second line begins no object, unlike that of JSON lines."""
    if len(lines) < 2 or lines[0][:1] != b"{" or lines[1][:1] == b"{":
        return None
    try:
        json.loads(lines[0])
    except (ValueError, RecursionError):
        key = re.match(rb'\{\s*"([^"]*)"\s*:\s*\[', head)
        return _one_object(key[1].decode(errors="replace") if key else "")
    return None


def _one_object(rows: str) -> Found:
    if not rows:
        return Found("JSON with objects over several lines", "write one JSON object a line (jq -c . FILE)")
    return Found(f'one JSON object, whose rows may be under "{rows}"', f"write them one a line (jq -c '.{rows}[]' FILE)")
