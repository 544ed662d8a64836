"""What a file is by its first bytes: another container than its source says is refused whole, before each of its records counts as broken."""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from data_pipelines.media.impostors import LFS_POINTER
from data_pipelines.schema import DataError
from data_pipelines.storage.files import open_file
from data_pipelines.storage.interface import StorageError
from data_pipelines.storage.patterns import expand

HEAD_BYTES = 1 << 16
WANTED = {  # by format: what a file should have been
    "jsonl": "JSON lines nor a JSON list",
    "tar": "a tar archive",
    "parquet": "a Parquet file",
    "arrayrecord": "an ArrayRecord file",
}
_LINES = 20  # a file none of whose first lines begins as an object holds no JSON lines
_EXPORT = "write one JSON object a line (with pandas: frame.to_json(PATH, orient='records', lines=True))"
_UNPACK = "unpack it and name the file in it"
_UTF8 = "write it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
_ARRAY_RECORD = bytes.fromhex("83af70d10d884a3f")  # of Riegeli, at the end of the first 24 bytes


class Found(NamedTuple):
    """What a file is, what to do with it, and the format that reads it ("" for none)."""

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
    (b"PK\x03\x04", Found("a zip archive", _UNPACK)),
    (b"\x1f\x8b", Found("compressed with gzip", "unpack it (gunzip)")),
    (b"BZh", Found("compressed with bzip2", "unpack it (bunzip2)")),
    (b"\xfd7zXZ\0", Found("compressed with xz", "unpack it (unxz)")),
    (b"\x28\xb5\x2f\xfd", Found("compressed with Zstandard", "unpack it (unzstd)")),
    (b"7z\xbc\xaf\x27\x1c", Found("a 7z archive", _UNPACK)),
    (b"%PDF", Found("a PDF document", _EXPORT)),
    (b"\xff\xfe\0\0", Found("text in UTF-32", _UTF8.replace("UTF-16", "UTF-32"))),
    (b"\0\0\xfe\xff", Found("text in UTF-32", _UTF8.replace("UTF-16", "UTF-32"))),
    (b"\xff\xfe", Found("text in UTF-16", _UTF8)),
    (b"\xfe\xff", Found("text in UTF-16", _UTF8)),
    (LFS_POINTER, Found("a Git LFS pointer and not the file itself", "fetch the file (git lfs pull)")),
)


def refuse_other_formats(head: bytes, address: str, source: str, format: str) -> None:
    """Raises DataError for a file that is not of its source's format, saying what it is and what to do. An empty file passes.

    Args:
      head: its first HEAD_BYTES; of JSON lines unpacked and as UTF-8.
    """
    found = recognise(head)
    if found is not None and found.format != format:
        advice = f'set the source\'s format to "{found.format}"' if found.format else found.advice
        raise DataError(f"source {source!r}: {address} is {found.what}, not {WANTED[format]}: {advice}")


def recognise(head: bytes) -> Found | None:
    """What a file is; None for an empty one."""
    return _binary(head) or _text(head.removeprefix(b"\xef\xbb\xbf").lstrip())


def format_of(path: str) -> str:
    """The format of a file, a pattern or a folder by what it holds; "jsonl" where nothing tells: opening it then says what is wrong."""
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
    """Whether a folder is a dataset's, or holds its versions."""
    return any(os.path.exists(os.path.join(folder, place, "features.json")) for place in ("", *os.listdir(folder)))


def rows_of_one_object(record: object) -> str | None:
    """The key under which an object that is the whole file has its rows; None for one that is a row itself."""
    if not isinstance(record, dict) or record.keys() & {"conversations", "messages"}:
        return None
    return next((key for key, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict)), None)


def refuse_one_object(record: object, address: str, source: str) -> None:
    """Raises DataError for the only record of a file that is an object with a list of rows."""
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
    # A NUL within a line of JSON breaks that line alone.
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
    """JSON lines are told from one object over many lines by the second line, which there begins no object."""
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
