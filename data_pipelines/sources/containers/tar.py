"""WebDataset archives: the members whose names are equal up to the first dot are one record.

The table holds for each record its members' names and places; it is made from the headers alone. A shard is known by its headers (names,
sizes, times of the members), its size and sampled blocks: a content that is replaced in place by one of the same length, under an unchanged
header, is not noticed.
"""

from __future__ import annotations

import json
import mmap
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers import RawRecord
from data_pipelines.sources.containers.recognise import HEAD_BYTES, refuse_other_formats
from data_pipelines.sources.containers.sampled import sampled_digest
from data_pipelines.sources.containers.tables import Entry, Tables
from data_pipelines.sources.containers.tar_members import Headers, Member, is_header
from data_pipelines.storage.files import Part
from data_pipelines.storage.interface import File

MAX_ROW_BYTES = 64 << 20
_IMAGES = frozenset(["png", "jpg", "jpeg", "jpe", "jfif", "bmp", "tif", "tiff", "ppm", "avif", "webp", "gif"])
_CLIPS = frozenset(["mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "flv", "wmv", "3gp"])
_TEXTS = frozenset(["txt", "text", "caption", "question", "answer", "cls"])
_NUMBERED = re.compile(r"(\D*)(\d+)\.(\w+)")  # 0.jpg, frame_12.png: one of several files of a record


class Tar:
    """The kind "tar"."""

    name = "tar1"

    def scan(self, file: File, tables: Tables, source: str) -> Entry:
        head = file.read(0, min(file.size, HEAD_BYTES))
        if any(head[:512]) and not is_header(head[:512]):
            refuse_other_formats(head, file.address, source, "tar")
        headers = Headers(file)
        records: dict[str, list[Member]] = {}
        for member in headers.members():
            folder, name = posixpath.split(posixpath.normpath(member.name))
            if name.startswith((".", "__")):  # left by macOS and by archives' own bookkeeping
                continue
            records.setdefault(posixpath.join(folder, name.partition(".")[0]), []).append(member)
        if not records and headers.damage:
            raise DataError(f"source {source!r}: {file.address} {headers.damage}, before its first member: fetch it again")
        with tables.draft(file, self.name) as draft:
            members = [member for group in records.values() for member in group]
            names = [member.name.encode() for member in members]
            draft.array("records", _ends(map(len, records.values())))
            draft.array("places", np.array([member[1:] for member in members], np.int64).reshape(-1, 2))
            draft.array("name_ends", _ends(map(len, names)))
            draft.table("names").write(b"".join(names))
            fingerprint = sampled_digest(file, headers.digest.digest())
            cut = bool(members) and max(member.start + member.size for member in members) > file.size
            extra = bool(headers.damage) and not cut  # a record that names what is lost
            return draft.commit(fingerprint, len(records) + extra, {"damage": headers.damage})

    def open(self, file: File, tables: Tables, entry: Entry) -> _Reader:
        return _Reader(file, tables, entry, self.name)

    def check(self, shards: Sequence[tuple[str, Entry]], source: str) -> None:
        pass


def _ends(counts: Iterable[int]) -> np.ndarray:
    """0 and the sums of counts: where each group ends."""
    return np.cumsum([0, *counts])


class _Held(NamedTuple):
    """A member of a record: its full name, what follows the record's own name, its place."""

    name: str
    suffix: str
    part: Part


class _Reader:
    def __init__(self, file: File, tables: Tables, entry: Entry, kind: str):
        self._file, self._notes = file, entry.notes
        self._records, self._places, self._name_ends = (
            tables.load(entry.fingerprint, kind, table) for table in ("records", "places", "name_ends")
        )
        self._names: mmap.mmap | bytes = tables.load_bytes(entry.fingerprint, kind, "names")

    def label(self, row: int) -> str:
        if row == len(self._records) - 1:
            return f"[{row}]"
        return "/" + _stem(self._name(int(self._records[row])))

    def record(self, row: int, key: str) -> RawRecord:
        address = self._file.address
        if row == len(self._records) - 1:
            raise SampleError("broken_record", f"{key}: {address} {self._notes['damage']}; what follows is lost: fetch the file again")
        members = self._members(row)
        by_suffix = {member.suffix: member for member in members}
        if len(by_suffix) < len(members):
            raise SampleError(
                "duplicate_key", f"{key}: {address} holds {len(members)} members of this name, some with one ending: rename them"
            )
        if any(member.part.start + member.part.size > self._file.size for member in members):
            raise SampleError("broken_record", f"{key}: {address} {self._notes['damage']}; the record is not whole: fetch the file again")
        return _record(by_suffix, key)

    def _members(self, row: int) -> list[_Held]:
        numbers = range(int(self._records[row]), int(self._records[row + 1]))
        members = []
        for number in numbers:
            name = self._name(number)
            start, size = self._places.reshape(-1, 2)[number].tolist()
            members.append(_Held(name, os.path.basename(name).partition(".")[2], Part(self._file, start, size)))
        return members

    def _name(self, member: int) -> str:
        start, end = int(self._name_ends[member]), int(self._name_ends[member + 1])
        return posixpath.normpath(self._names[start:end].decode())


def _stem(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])


def _record(members: Mapping[str, _Held], key: str) -> RawRecord:
    """The fields and files of a record.

    "json" gives the fields. Beside them stand texts ("txt" as "text", others under their ending), other JSON under its ending, and, where
    the fields name no media, the pictures as "image" or "images" and the clips as "video" or "videos". Other members stand under their
    ending with their name, so that nothing passes unseen.
    """
    fields = _json(members["json"], key) if "json" in members else {}
    files = _files(members)
    if not isinstance(fields, dict):
        return RawRecord(fields, files)
    named = any(fields.get(name) for name in ("image", "images", "video", "videos"))
    images: list[_Held] = []
    clips: list[_Held] = []
    for suffix, member in sorted(members.items(), key=lambda item: _order(item[0])):
        kind = suffix.lower() if "." not in suffix else (numbered[3].lower() if (numbered := _NUMBERED.fullmatch(suffix)) else "")
        if suffix == "json":
            continue
        if suffix.rpartition(".")[2] in _TEXTS:
            _add_text(fields, suffix, _text(member, key), key)
        elif suffix.endswith(".json"):
            fields.setdefault(suffix, _json(member, key))
        elif kind in _IMAGES | _CLIPS:
            (images if kind in _IMAGES else clips).append(member)
        elif not named:
            fields.setdefault(suffix, member.name)
    if named:
        _add_only_file(fields, files, images + clips)
    else:
        for name, held in (("image", images), ("video", clips)):
            if held:
                fields[name if len(held) == 1 else f"{name}s"] = held[0].name if len(held) == 1 else [each.name for each in held]
    return RawRecord(fields, files)


def _files(members: Mapping[str, _Held]) -> dict[str, Part]:
    """The members by full name, by name without folder and by ending."""
    files = {suffix: member.part for suffix, member in members.items()}
    files |= {os.path.basename(member.name): member.part for member in members.values()}
    return files | {member.name: member.part for member in members.values()}


def _add_only_file(fields: Mapping[str, Any], files: dict[str, Part], held: Sequence[_Held]) -> None:
    """A row written before it was packed may name its one file as it lay on a disk: that is the record's one picture or clip."""
    names = [name for key in ("image", "images", "video", "videos") for name in _names(fields.get(key))]
    if len(names) == len(held) == 1 and names[0] not in files:
        files[names[0]] = held[0].part


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


def _json(member: _Held, key: str) -> Any:
    try:
        return json.loads(_row_bytes(member, key))
    except (ValueError, RecursionError) as error:
        raise SampleError("broken_json", f"{key}: the member {member.name} is not valid JSON ({error})") from error


def _text(member: _Held, key: str) -> str:
    try:
        return _row_bytes(member, key).decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise SampleError("bad_text", f"{key}: the member {member.name} is not UTF-8 ({error}): write it as UTF-8") from error


def _row_bytes(member: _Held, key: str) -> bytes:
    if member.part.size > MAX_ROW_BYTES:
        raise SampleError("long_row", f"{key}: the member {member.name} has {member.part.size:,} bytes, more than {MAX_ROW_BYTES:,}")
    return member.part.read()
