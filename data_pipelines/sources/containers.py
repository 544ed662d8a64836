"""What a file is that is no JSON lines: recognised by its first bytes, before each of its lines counts as broken."""

from __future__ import annotations

import json
import pathlib
import re

from data_pipelines.schema import DataError

_HEAD_BYTES = 1 << 16
_LINES = 20  # a file none of whose first lines begins as an object holds no JSON lines
_EXPORT = "write one JSON object a line (with pandas: frame.to_json(PATH, orient='records', lines=True))"
_UNPACK = "unpack it and name the .json or .jsonl file in it"
_UTF8 = "write it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
_MAGIC: tuple[tuple[bytes, str, str], ...] = (  # first bytes, what the file is, what to do
    (b"PAR1", "a Parquet file", _EXPORT),
    (b"ARROW1", "an Arrow file", _EXPORT),
    (b"\xff\xff\xff\xff", "an Arrow stream", _EXPORT),
    (b"ORC", "an ORC file", _EXPORT),
    (b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (b"\x89HDF", "an HDF5 file", _EXPORT),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"\x1f\x8b", "compressed with gzip", "unpack it (gunzip)"),
    (b"BZh", "compressed with bzip2", "unpack it (bunzip2)"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it (unxz)"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", "unpack it (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"%PDF", "a PDF document", _EXPORT),
    (b"\xff\xfe", "text in UTF-16", _UTF8),
    (b"\xfe\xff", "text in UTF-16", _UTF8),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself", "fetch the file (git lfs pull)"),
)


def refuse_other_containers(path: pathlib.Path, source: str) -> None:
    """Raises DataError for a file that is neither JSON lines nor a JSON list, saying what it is and what to do. An empty file passes."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if recognised := _binary(head) or _text(head.removeprefix(b"\xef\xbb\xbf").lstrip()):
        what, advice = recognised
        raise DataError(f"source {source!r}: {path} is {what}, not JSON lines nor a JSON list: {advice}")


def rows_of_one_object(record: object) -> str | None:
    """The key under which an object that is the whole file has its rows; None for one that is a row itself."""
    if not isinstance(record, dict) or record.keys() & {"conversations", "messages"}:
        return None
    return next((key for key, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict)), None)


def one_object_message(path: pathlib.Path, source: str, rows: str) -> str:
    what, advice = _one_object(rows)
    return f"source {source!r}: {path} is {what}, not JSON lines nor a JSON list: {advice}"


def _binary(head: bytes) -> tuple[str, str] | None:
    for magic, what, advice in _MAGIC:
        if head.startswith(magic):
            return what, advice
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if b"\0" in head[:512]:
        return ("text in UTF-16 or UTF-32", _UTF8) if head[:64].count(0) * 4 >= len(head[:64]) else ("a binary file", _EXPORT)
    return None


def _text(head: bytes) -> tuple[str, str] | None:
    lines = [line.strip() for line in head.split(b"\n") if line.strip()][:_LINES]
    if not lines or head[:1] == b"[":
        return None
    if any(line[:1] == b"{" for line in lines):
        return _pretty(head, lines)
    first = lines[0][:80].decode(errors="replace")
    if head[:1] == b"<":
        return f"HTML or XML (it begins with {first!r})", "download the data itself, not the page about it"
    for separator, name in ((b",", "CSV"), (b"\t", "TSV")):
        if lines[0].count(separator):
            return f"{name} (it begins with {first!r})", _EXPORT
    return f"text (it begins with {first!r})", "write one JSON object a line"


def _pretty(head: bytes, lines: list[bytes]) -> tuple[str, str] | None:
    """JSON lines are told from one object over many lines by the second line, which there begins no object."""
    if len(lines) < 2 or lines[0][:1] != b"{" or lines[1][:1] == b"{":
        return None
    try:
        json.loads(lines[0])
    except (ValueError, RecursionError):
        key = re.match(rb'\{\s*"([^"]*)"\s*:\s*\[', head)
        return _one_object(key[1].decode(errors="replace") if key else "")
    return None


def _one_object(rows: str) -> tuple[str, str]:
    if not rows:
        return "JSON with objects over several lines", "write one JSON object a line (jq -c . FILE)"
    return f'one JSON object, whose rows may be under "{rows}"', f"write them one a line (jq -c '.{rows}[]' FILE)"
