"""Reads datasets listed in a meta file, as the training code of InternVL and SenseNova-U1 does:

    {"NAME": {"root": "images/", "annotation": "rows.jsonl", "repeat_time": 2, "length": 1000}, ...}

`annotation` is a JSONL file, a pattern or a list of these; `root` is the folder of its media; `repeat_time` is the number of copies of its rows
in one epoch: a whole number, or a share below 1, for which that share of the rows is taken from the beginning.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import numbers
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.schema import DataError, Sample, SourceSettings
from data_pipelines.sources.containers import Shard
from data_pipelines.sources.containers.lines import Lines
from data_pipelines.sources.containers.shards import Shards
from data_pipelines.sources.containers.tables import Tables
from data_pipelines.sources.paths import local_path, one_path
from data_pipelines.sources.source import RecordSource

_READ = ("root", "annotation", "repeat_time")
_WITHOUT_MEANING = ("length", "max_dynamic_patch", "min_dynamic_patch")  # rows are counted here, and pictures are not cut into tiles


class _Part(NamedTuple):
    """One copy of a dataset of the list: the first `samples` rows of `source`."""

    name: str
    source: RecordSource
    samples: int


def open_meta(settings: SourceSettings, tables: Tables) -> MetaSource:
    """Opens all datasets of a meta file.

    Raises DataError if the file is not a meta file, or if a dataset in it cannot be used; the message names the dataset.
    """
    path = local_path(one_path(settings), f"source {settings.name!r}: path")
    where = f"source {settings.name!r}: {path}"
    if settings.media_root:
        raise DataError(f"{where} names the root of each dataset: leave media_root of the source empty")
    try:
        listed = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{where} cannot be read as JSON ({error})") from error
    if not isinstance(listed, dict) or not listed:
        raise DataError(f'{where} is no meta file: it must be an object {{"NAME": {{"root": ..., "annotation": ..., "repeat_time": 1}}}}')
    parts: list[_Part] = []
    ignored: Counter[str] = Counter()
    for name, entry in listed.items():
        parts += _open_part(name, entry, f"{where}: dataset {name!r}", settings, tables, ignored)
    return MetaSource(settings, parts, ignored)


def _open_part(name: str, entry: Any, where: str, settings: SourceSettings, tables: Tables, ignored: Counter[str]) -> list[_Part]:
    if not isinstance(entry, dict) or not _is_paths(entry.get("annotation")):
        raise DataError(f'{where} must have "annotation", the path of its rows or a list of paths')
    root, repeat = entry.get("root") or "", entry.get("repeat_time", 1)
    if not isinstance(root, str):
        raise DataError(f'{where}: "root" is {root!r}, must be a folder')
    is_number = isinstance(repeat, numbers.Real) and not isinstance(repeat, bool)
    if not is_number or repeat <= 0 or (repeat > 1 and repeat != int(repeat)):
        raise DataError(f'{where}: "repeat_time" is {repeat!r}, must be a whole number, or a share between 0 and 1 of its rows')
    for key in sorted(set(entry) - set(_READ) - set(settings.ignore)):
        if key not in _WITHOUT_MEANING and entry[key]:
            raise DataError(
                f"{where}: the key {key!r} is not read and may change what is trained: list it in `ignore` of the source to train without it"
            )
    ignored.update(set(entry) - set(_READ))
    annotation = entry["annotation"]
    of_part = dataclasses.replace(
        settings, format="jsonl", path=annotation if isinstance(annotation, str) else tuple(annotation), media_root=root
    )
    source = RecordSource(of_part, Shards(Lines(), of_part.path, tables, f"{settings.name}/{name}"))
    samples = len(source) if repeat >= 1 else max(1, int(len(source) * repeat))
    return [_Part(name, source, samples)] * max(1, int(repeat))


def _is_paths(value: object) -> bool:
    return isinstance(value, str) if not isinstance(value, list) else bool(value) and all(isinstance(each, str) for each in value)


class MetaSource:
    """The rows of all datasets, one dataset after the other, each repeated `repeat_time` times. Equal shards are measured only once."""

    def __init__(self, settings: SourceSettings, parts: Sequence[_Part], ignored: Mapping[str, int]):
        self.name, self.settings = settings.name, settings
        self._parts, self._ignored = parts, Counter(ignored)
        self._ends = list(itertools.accumulate(part.samples for part in parts))

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and patterns of all datasets."""
        return tuple(dict.fromkeys(path for part in self._parts for path in part.source.paths))

    @property
    def ignored(self) -> Counter[str]:
        """Keys that are not read, of rows and of datasets in the list, with the number of times each was ignored so far."""
        different = {id(part.source): part.source for part in self._parts}
        return sum((source.ignored for source in different.values()), self._ignored.copy())

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Returns a sample. Raises SampleError for a record that cannot be used."""
        part, row = self._find(index)
        sample = part.source[row]
        return dataclasses.replace(sample, key=f"{part.name}/{sample.key}")

    def key(self, index: int) -> str:
        """Returns the name of a sample, usable or not: DATASET/FILE:LINE."""
        part, row = self._find(index)
        return f"{part.name}/{part.source.key(row)}"

    def shards(self) -> Sequence[Shard]:
        """Returns the files of each dataset in order, once for each repetition. If a share of the rows is taken, the last file is cut."""
        result = []
        for part in self._parts:
            left = part.samples
            media = "media" if part.source.settings.media_root else ""
            for shard in part.source.shards():
                taken = min(left, shard.samples)
                cut = f"first {taken} of " if taken < shard.samples else ""
                if taken:
                    result.append(shard._replace(fingerprint=f"{cut}{shard.fingerprint}{media}", samples=taken))
                left -= taken
        return result

    def _find(self, index: int) -> tuple[_Part, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        return self._parts[number], index - (self._ends[number - 1] if number else 0)
