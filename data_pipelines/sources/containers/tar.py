"""Reads WebDataset archives, in which the members whose names are equal up to the first dot are one record.

The table has the names and positions of each record's members; it is made from the headers alone. A shard is identified by its headers (names,
sizes, times of the members), its size and sampled blocks. If a content is replaced in place by one of the same length, under an unchanged
header, this may go unnoticed.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence

import numpy as np

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers import RawRecord
from data_pipelines.sources.containers.members import Held, record_of
from data_pipelines.sources.containers.recognise import HEAD_BYTES, refuse_other_formats
from data_pipelines.sources.containers.sampled import sampled_digest
from data_pipelines.sources.containers.tables import Entry, Tables, ends
from data_pipelines.sources.containers.tar_members import Headers, Member, is_header
from data_pipelines.storage.files import Part
from data_pipelines.storage.interface import File


class Tar:
    """The kind "tar"."""

    name = "tar2"

    def scan(self, file: File, tables: Tables, source: str) -> Entry:
        head = file.read(0, min(file.size, HEAD_BYTES))
        if any(head[:512]) and not is_header(head[:512]):
            refuse_other_formats(head, file.address, source, "tar")
        headers = Headers(file)
        records: dict[str, list[Member]] = {}
        for member in headers.members():
            folder, name = posixpath.split(posixpath.normpath(member.name))
            if name.startswith((".", "__")):  # metadata of macOS and of archiving programs
                continue
            found = posixpath.join(folder, name.partition(".")[0])
            records.setdefault(found, []).append(member)
        if not records and headers.damage:
            raise DataError(f"source {source!r}: {file.address} {headers.damage}, before its first member: fetch it again")
        with tables.draft(file, self.name) as draft:
            members = [member for group in records.values() for member in group]
            names = [member.name.encode() for member in members]
            draft.numbers("records", ends(map(len, records.values())))
            draft.numbers("places", np.array([member[1:] for member in members], np.int64).reshape(-1, 2))
            draft.numbers("name_ends", ends(map(len, names)))
            draft.table("names").write(b"".join(names))
            fingerprint = sampled_digest(file, headers.digest.digest())
            # In a damaged archive the record that was found last may lack members.
            last = list(records).index(found) if headers.damage else -1
            return draft.commit(fingerprint, len(records), {"damage": headers.damage, "last": last})

    def open(self, file: File, tables: Tables, entry: Entry) -> _Reader:
        return _Reader(file, tables, entry, self.name)

    def check(self, shards: Sequence[tuple[str, Entry]], source: str) -> None:
        pass


class _Reader:
    def __init__(self, file: File, tables: Tables, entry: Entry, kind: str):
        self._file, self._notes = file, entry.notes
        mapped = tables.mapped(entry, kind)
        self._records, self._places, self._name_ends = map(mapped.numbers, ("records", "places", "name_ends"))
        self._names = mapped.text("names")

    def label(self, row: int) -> str:
        return "/" + _stem(self._name(int(self._records[row])))

    def record(self, row: int, key: str) -> RawRecord:
        address = self._file.address
        if row == self._notes["last"]:
            what = "the record may not be whole, and what follows is lost"
            raise SampleError("broken_record", f"{key}: {address} {self._notes['damage']}; {what}: fetch the file again")
        members = self._members(row)
        by_suffix = {member.suffix: member for member in members}
        if len(by_suffix) < len(members):
            raise SampleError(
                "duplicate_key", f"{key}: {address} holds {len(members)} members of this name, some with one ending: rename them"
            )
        if linked := next((member.name for member in members if member.stored.start < 0), None):
            raise SampleError(
                "broken_record", f"{key}: the member {linked} is a link or a sparse file, which is not read: pack the file itself"
            )
        return record_of(by_suffix, key)

    def _members(self, row: int) -> list[Held[Part]]:
        """Returns the members of a record."""
        first, last = int(self._records[row]), int(self._records[row + 1])
        places = self._places[2 * first : 2 * last].reshape(-1, 2).tolist()
        names = [self._name(number) for number in range(first, last)]
        return [
            Held(name, os.path.basename(name).partition(".")[2], Part(self._file, start, size), size)
            for name, (start, size) in zip(names, places, strict=True)
        ]

    def _name(self, member: int) -> str:
        start, end = int(self._name_ends[member]), int(self._name_ends[member + 1])
        return posixpath.normpath(str(self._names[start:end], "utf-8"))


def _stem(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])
