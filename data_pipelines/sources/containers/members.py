"""Converts files of equal name to a record: fields come from JSON and text files, media from picture and clip files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.schema import SampleError
from data_pipelines.sources.containers import RawRecord
from data_pipelines.sources.json_text import read_json
from data_pipelines.storage.interface import Stored

MAX_ROW_BYTES = 64 << 20
IMAGES = frozenset(["png", "jpg", "jpeg", "jpe", "jfif", "bmp", "tif", "tiff", "ppm", "avif", "webp", "gif"])
CLIPS = frozenset(["mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "flv", "wmv", "3gp"])
_TEXTS = frozenset(["txt", "text", "caption", "question", "answer", "cls"])
_NUMBERED = re.compile(r"(\D*)(\d+)\.(\w+)")  # suffixes such as 0.jpg, frame_12.png: one of several files of a record


class Held[S: Stored](NamedTuple):
    """A file of a record: its full name, the suffix after the record's own name and the dot, its content, and its size in bytes."""

    name: str
    suffix: str
    stored: S
    size: int


def record_of(members: Mapping[str, Held], key: str) -> RawRecord:
    """Returns the fields and files of a record.

    The member "json" gives the fields. Texts are added to them ("txt" as "text", others under their suffix), and other JSON under its suffix.
    If the fields name neither media nor one of the files, pictures are added as "image" or "images", clips as "video" or "videos", and the
    names of other members under their suffix, so that no member goes unnoticed.
    """
    fields = _json(members["json"], key) if "json" in members else {}
    files = _files(members)
    if not isinstance(fields, dict):
        return RawRecord(fields, files)
    named = any(fields.get(name) for name in ("image", "images", "video", "videos")) or _mentions(fields, files)
    images: list[Held] = []
    clips: list[Held] = []
    for suffix, member in sorted(members.items(), key=lambda item: _order(item[0])):
        kind = suffix.lower() if "." not in suffix else (numbered[3].lower() if (numbered := _NUMBERED.fullmatch(suffix)) else "")
        if suffix == "json":
            continue
        if suffix.rpartition(".")[2] in _TEXTS:
            _add_text(fields, suffix, _text(member, key), key)
        elif suffix.endswith(".json"):
            fields.setdefault(suffix, _json(member, key))
        elif kind in IMAGES | CLIPS:
            (images if kind in IMAGES else clips).append(member)
        elif not named:
            fields.setdefault(suffix, member.name)
    if named:
        _add_only_file(fields, files, images + clips)
    else:
        for name, held in (("image", images), ("video", clips)):
            if held:
                fields[name if len(held) == 1 else f"{name}s"] = held[0].name if len(held) == 1 else [each.name for each in held]
    return RawRecord(fields, files)


def _mentions(value: Any, names: Mapping[str, Stored]) -> bool:
    """Returns True if a value, at any depth, names one of the files by a name with an extension."""
    if isinstance(value, str):
        return "." in value and value in names
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_mentions(each, names) for each in inner)


def _files(members: Mapping[str, Held]) -> dict[str, Stored]:
    """Returns the members by full name, by name without folder, and by suffix."""
    files = {suffix: member.stored for suffix, member in members.items()}
    files |= {os.path.basename(member.name): member.stored for member in members.values()}
    return files | {member.name: member.stored for member in members.values()}


def _add_only_file(fields: Mapping[str, Any], files: dict[str, Stored], held: Sequence[Held]) -> None:
    """Adds the record's only picture or clip under the only file name in the row, if no member has that name.

    A row that was written before its files were packed may name its file by the path that it had on a disk.
    """
    names = [name for key in ("image", "images", "video", "videos") for name in _names(fields.get(key))]
    if len(names) == len(held) == 1 and names[0] not in files:
        files[names[0]] = held[0].stored


def _names(value: Any) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _add_text(fields: dict[str, Any], suffix: str, text: str, key: str) -> None:
    name = "text" if suffix == "txt" else suffix
    if text in (fields.get("caption"), fields.get(name)):  # img2dataset writes a caption twice
        return
    if fields.get(name):
        raise SampleError("bad_record", f'{key}: the member {suffix} and "{name}" of its JSON differ: keep one of them')
    fields[name] = text


def _order(suffix: str) -> tuple[str, int, str]:
    numbered = _NUMBERED.fullmatch(suffix)
    return (numbered[1], int(numbered[2]), suffix) if numbered else ("", -1, suffix)


def _json(member: Held, key: str) -> Any:
    try:
        return read_json(_row_bytes(member, key))
    except ValueError as error:
        raise SampleError("broken_json", f"{key}: the member {member.name} is not valid JSON ({error})") from error


def _text(member: Held, key: str) -> str:
    try:
        return _row_bytes(member, key).decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise SampleError("bad_text", f"{key}: the member {member.name} is not UTF-8 ({error}): write it as UTF-8") from error


def _row_bytes(member: Held, key: str) -> bytes:
    if member.size > MAX_ROW_BYTES:
        raise SampleError("long_row", f"{key}: the member {member.name} has {member.size:,} bytes, more than {MAX_ROW_BYTES:,}")
    return member.stored.read()
