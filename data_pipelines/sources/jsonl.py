"""JSON and JSONL files with their media in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.schema import DataError, Sample, SampleError, SourceSettings
from data_pipelines.sources.containers import one_object_message, refuse_other_containers, rows_of_one_object
from data_pipelines.sources.dialects.row import VERSION
from data_pipelines.sources.paths import local_path
from data_pipelines.sources.samples import SampleReader

_SCAN_BYTES = 1 << 24


class JsonlSource:
    """Random access to the records of one file.

    Of a JSONL file only the offsets of its lines are held (8 bytes a line); a JSON list is held whole.

    Raises:
      DataError: the file or media_root is missing; the file is empty, is no JSON lines nor a JSON list, or a list with a syntax error.
    """

    def __init__(self, settings: SourceSettings):
        self.name = settings.name
        self._settings = settings
        self._path = local_path(settings.path, f"source {self.name!r}: path")
        self._reader = SampleReader(settings)
        try:
            # Unbuffered and read by offset: threads share it without a lock.
            self._file = self._path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(f"source {self.name!r}: cannot read {self._path} ({error.strerror}); name a .json or .jsonl file") from error
        refuse_other_containers(self._path, self.name)
        self._records: list[Any] | None = None
        self._offsets = np.zeros(1, np.int64)
        self._lines: Sequence[int] | np.ndarray = ()
        if _first_character(self._path) == b"[":
            self._records = self._load_list()
        else:
            self._offsets = _line_offsets(self._path)
            self._lines = self._filled_lines()
        if not len(self):
            raise DataError(f"source {self.name!r}: {self._path} holds no samples; give it some or take it out of the configuration")
        if len(self) == 1 and self._records is None:
            self._refuse_one_object()

    @property
    def ignored(self) -> Counter[str]:
        """Keys of rows that are not read, with the number of times each was passed over so far."""
        return self._reader.ignored

    def __len__(self) -> int:
        return len(self._lines) if self._records is None else len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Raises SampleError for a record that cannot be used."""
        return self._reader.read(self._record(index), self.key(index))

    def key(self, index: int) -> str:
        """Names a sample: "captions.jsonl:17" is line 17, "captions.json[17]" the element after 17 others."""
        if self._records is None:
            return f"{self._path.name}:{self._lines[index] + 1}"
        return f"{self._path.name}[{index}]"

    def fingerprint(self) -> str:
        """Changes when the file (by size and time of change) or the settings change; not when a media file does."""
        status = os.fstat(self._file.fileno())
        identity = ("jsonl", VERSION, self._path.name, status.st_size, status.st_mtime_ns, self._settings)
        return hashlib.sha256(repr(identity).encode()).hexdigest()

    def _record(self, index: int) -> Any:
        if self._records is not None:
            return self._records[index]
        line = self._lines[index]
        try:
            return json.loads(self._read(line))
        except (ValueError, RecursionError) as error:
            raise SampleError("broken_json", f"{self._path}, line {line + 1}: not valid JSON ({error})") from error

    def _read(self, line: int) -> bytes:
        start, end = int(self._offsets[line]), int(self._offsets[line + 1])
        return os.pread(self._file.fileno(), end - start, start)

    def _filled_lines(self) -> Sequence[int] | np.ndarray:
        """Numbers of the lines that hold more than a line's end."""
        sizes = np.diff(self._offsets)
        empty = np.zeros(len(sizes), bool)
        for line in np.flatnonzero(sizes <= 2).tolist():
            empty[line] = not self._read(line).strip()
        return np.flatnonzero(~empty) if empty.any() else range(len(sizes))

    def _load_list(self) -> list[Any]:
        try:
            return json.loads(self._path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"source {self.name!r}: {self._path} is not valid JSON ({error}); mend it, or write one object a line"
            ) from error

    def _refuse_one_object(self) -> None:
        try:
            rows = rows_of_one_object(self._record(0))
        except SampleError:
            return
        if rows is not None:
            raise DataError(one_object_message(self._path, self.name, rows))


def _first_character(path: pathlib.Path) -> bytes:
    """The first character that is not white space (nor a byte order mark), b"" when there is none."""
    with path.open("rb") as file:
        while block := file.read(4096):
            if text := block.removeprefix(b"\xef\xbb\xbf").lstrip():
                return text[:1]
    return b""


def _line_offsets(path: pathlib.Path) -> np.ndarray:
    """Returns where each line begins, and the file's length: int64 [lines + 1]."""
    parts, at = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while block := file.read(_SCAN_BYTES):
            parts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (at + 1))
            at += len(block)
    offsets = np.concatenate(parts)
    return offsets if offsets[-1] == at else np.append(offsets, at)
