"""Reads a folder of media: pictures and clips beside texts of the same name (0.jpg, 0.txt or 0.json), or rows in metadata.jsonl.

With metadata.jsonl (as in Hugging Face's ImageFolder) each line is a row whose "file_name" is relative to the folder of metadata.jsonl. Without
it, files whose names differ only in the last extension are a record. A folder is identified by the names and sizes of all its files and the
content of its text files. A picture that is replaced by one of the same size is not noticed here; the length index checks for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import posixpath
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.sources.containers import Container, RawRecord, Shard
from data_pipelines.sources.containers.lines import Lines
from data_pipelines.sources.containers.members import CLIPS, Held, record_of
from data_pipelines.sources.containers.shards import Shards
from data_pipelines.sources.containers.tables import Entry, Tables, ends
from data_pipelines.sources.paths import MediaRoot, local_path, one_path
from data_pipelines.storage.files import Listed, Part, Whole, listing, open_file, read_many
from data_pipelines.storage.interface import StorageError, is_remote

_METADATA = "metadata.jsonl"
_OTHER_METADATA = ("metadata.csv", "metadata.parquet")
_KIND = "folder1"
_TEXT_ENDINGS = (".txt", ".json", ".caption", ".text")
_READ_AT_ONCE = 256


def open_folder(settings: SourceSettings, tables: Tables) -> Container:
    """Opens the folder that a source's path names.

    Raises:
      DataError: the folder cannot be read or has no samples.
    """
    source, folder = settings.name, one_path(settings).rstrip("/")
    if not is_remote(folder):
        folder = str(local_path(folder, f"source {source!r}: path"))
    try:
        files = listing(folder)
        metadata = [f"{folder}/{file.name}" for file in files if posixpath.basename(file.name) == _METADATA]
        if metadata:
            return _Rows(Shards(Lines(), metadata, tables, source), folder, metadata)
        other = next((file.name for file in files if posixpath.basename(file.name) in _OTHER_METADATA), None)
        if other is not None:
            raise DataError(f"source {source!r}: {folder}/{other} is not read: write its rows to {_METADATA} with a file_name in each")
        return _Beside(folder, files, tables, source, MediaRoot(dataclasses.replace(settings, media_root=folder)))
    except StorageError as error:
        raise DataError(f"source {source!r}: {error}") from error


class _Rows:
    """The rows of metadata.jsonl files."""

    def __init__(self, rows: Shards, folder: str, metadata: Sequence[str]):
        self._rows = rows
        self._folders = [posixpath.dirname(path.removeprefix(f"{folder}/")) for path in metadata]
        self._ends = np.cumsum([shard.samples for shard in rows.shards()])

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return self._rows.key(index)

    def shards(self) -> Sequence[Shard]:
        return self._rows.shards()

    def record(self, index: int) -> RawRecord:
        record = self._rows.record(index)
        within = self._folders[int(np.searchsorted(self._ends, index, side="right"))]
        return RawRecord(_with_media(record.fields, within, self.key(index)), record.files)


def _with_media(fields: Any, within: str, key: str) -> Any:
    """Returns the row with "file_name" renamed to "image" or "video" ("file_names" to the plural), and paths relative to the source's folder."""
    if not isinstance(fields, dict):
        return fields
    for name in ("file_name", "file_names"):
        if name not in fields:
            continue
        files = fields[name] if isinstance(fields[name], list) else [fields[name]]
        if not files or not all(isinstance(file, str) for file in files):
            raise SampleError("bad_record", f'{key}: "{name}" must name files, not {fields[name]!r}')
        places = [posixpath.join(within, file) for file in files]
        media = "video" if files[0].rpartition(".")[2].lower() in CLIPS else "image"
        rest = {other: value for other, value in fields.items() if other != name}
        return rest | ({media: places[0]} if name == "file_name" else {f"{media}s": places})
    return fields


class _Place(NamedTuple):
    """A folder as a File for the tables: `size` is the number of its files, `modified` a digest of their names, sizes and times."""

    address: str
    size: int
    modified: int

    def read(self, start: int, length: int) -> bytes:
        raise StorageError("unreadable_file", f"{self.address} is a folder")


class _Beside:
    """The records of a folder without metadata.jsonl: each has the media and texts of one name."""

    def __init__(self, folder: str, files: Sequence[Listed], tables: Tables, source: str, root: MediaRoot):
        self._folder, self._root = folder, root
        state = hashlib.sha256(repr(files).encode()).digest()[:7]
        place = _Place(os.path.abspath(folder), len(files), int.from_bytes(state, "big"))
        with tables.locked(place):
            entry = tables.known(place, _KIND) or self._scan(place, files, tables)
        if not entry.samples:
            raise DataError(f"source {source!r}: {folder} holds no samples; give it some or take it out of the configuration")
        self._shard = Shard(pathlib.PurePath(self._folder).name, entry.fingerprint, entry.samples)
        mapped = tables.mapped(entry, _KIND)
        self._records, self._name_ends, self._sizes = map(mapped.numbers, ("records", "name_ends", "sizes"))
        self._names = mapped.text("names")
        self._tables = tables

    def __len__(self) -> int:
        return self._shard.samples

    def shards(self) -> Sequence[Shard]:
        return [self._shard]

    def key(self, index: int) -> str:
        return f"{self._shard.name}/{posixpath.splitext(self._name(int(self._records[index])))[0]}"

    def record(self, index: int) -> RawRecord:
        key = self.key(index)
        members = {}
        for number in range(int(self._records[index]), int(self._records[index + 1])):
            name = self._name(number)
            found = self._root.find(name, key)  # refuses links that lead out of the folder
            stored = found if isinstance(found, Whole) else Whole(found)
            members[posixpath.splitext(name)[1].removeprefix(".")] = Held(name, "", stored, int(self._sizes[number]))
        try:
            return record_of(members, key)
        except StorageError as error:
            raise SampleError(error.reason, f"{key}: {error}") from error

    def _name(self, number: int) -> str:
        return str(self._names[int(self._name_ends[number]) : int(self._name_ends[number + 1])], "utf-8", "surrogateescape")

    def _scan(self, place: _Place, files: Sequence[Listed], tables: Tables) -> Entry:
        groups: dict[str, list[Listed]] = {}
        for file in files:
            groups.setdefault(posixpath.splitext(file.name)[0], []).append(file)
        ordered = [file for group in groups.values() for file in group]
        names = [file.name.encode("utf-8", "surrogateescape") for file in ordered]
        digest = hashlib.sha256(repr([(file.name, file.size) for file in ordered]).encode())
        texts = [file for file in ordered if file.name.endswith(_TEXT_ENDINGS)]
        for start in range(0, len(texts), _READ_AT_ONCE):
            opened = [open_file(f"{self._folder}/{file.name}") for file in texts[start : start + _READ_AT_ONCE]]
            for content in read_many([Part.whole(file) for file in opened]):
                digest.update(hashlib.sha256(content).digest())
        with tables.draft(place, _KIND) as draft:
            draft.numbers("records", ends(map(len, groups.values())))
            draft.numbers("name_ends", ends(map(len, names)))
            draft.numbers("sizes", np.array([file.size for file in ordered], np.int64))
            draft.table("names").write(b"".join(names))
            return draft.commit(digest.hexdigest(), len(groups))
