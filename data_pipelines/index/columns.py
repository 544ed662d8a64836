"""The columns of the length index, which contain the measures of samples.

A part of a source is a table of columns. The columns of a shard are those of its consecutive parts, joined; the columns of a source are those
of its shards, joined. Values that count rows of another column (Column.counts) are shifted by the rows before them. The columns of a source
are therefore the same however it was divided.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.media import faithful, video

Numbers = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[Any]]


class Column(NamedTuple):
    """Type and shape of one value of a column.

    `counts` names the column whose rows the values count, if any: a value is then the number of a sample, or the row at which values end.
    """

    kind: type
    shape: tuple[int, ...] = ()
    counts: str = ""


COLUMNS: Mapping[str, Column] = {
    # for each sample
    "text": Column(np.uint32),  # tokens without visual tokens and without the text that belongs to frames; 0: not measured
    "size_ends": Column(np.int64, counts="sizes"),
    "sizes": Column(np.uint32, (2,)),  # (height, width) of each image
    # for each clip, in the order of samples
    "clip_sample": Column(np.int64, counts="text"),
    "clips": Column(np.float64, (5,)),  # duration, rate, frames, height, width
    "before_hash": Column(np.uint64),  # hash of the text in front of the clip's first frame
    "before_ends": Column(np.int64, counts="before"),
    "before": Column(np.uint8),
    "time_ends": Column(np.int64, counts="times"),
    "times": Column(np.float64),  # times of frames, for clips given as frames with times
    # for each sample that cannot be used
    "failure_sample": Column(np.int64, counts="text"),
    "failure_ends": Column(np.int64, counts="failures"),
    "failures": Column(np.uint8),  # JSON of [reason, message]
    # for each sample that a condition on its row leaves out
    "filtered_sample": Column(np.int64, counts="text"),
    # for each media file outside the source's own files, and for each picture that is converted
    "file_sample": Column(np.int64, counts="text"),
    "files": Column(np.int64, (2,)),  # (size in bytes, modification time in nanoseconds), taken before the file was read
    "conversion_sample": Column(np.int64, counts="text"),
    "conversions": Column(np.uint8),  # indices into faithful.CONVERSIONS
}
ORDER = (  # columns that determine the lengths, and thus the order of the data
    "text", "size_ends", "sizes", "clip_sample", "clips", "before_hash", "before_ends", "before", "time_ends", "times", "failure_sample",
    "filtered_sample",
)  # fmt: skip
_OF_SAMPLES = {  # for each column of sample numbers, the columns that have one row for each of its rows
    "clip_sample": ("clips", "before_hash", "before_ends", "time_ends"),
    "failure_sample": ("failure_ends",),
    "filtered_sample": (),
    "file_sample": ("files",),
    "conversion_sample": ("conversions",),
}


class Measured(NamedTuple):
    """The measures of one sample.

    Attributes:
      text: number of tokens that depend on no phase. An image counts as its two brackets, without visual tokens. Clips do not count: neither
        their frames' brackets and times, nor the piece of text that ends at their first frame.
      sizes: (height, width) of each image.
      clips: header data of each clip.
      before: for each clip, the text at the beginning of the piece that ends at its first frame (chat.around_clips).
      files: state of each media file outside the source's own files, taken before the file was read.
      conversions: names in faithful.CONVERSIONS, for all pictures.
    """

    text: int
    sizes: Sequence[tuple[int, int]]
    clips: Sequence[video.VideoInfo]
    before: Sequence[str]
    files: Sequence[tuple[int, int]]
    conversions: Sequence[str]


class Failure(NamedTuple):
    """Why a sample could not be used when it was last checked: the reason under which it is counted, and the message."""

    reason: str
    message: str


class Entry(NamedTuple):
    """The index's entry of one sample.

    An entry with both measures and a failure was measured, and could not be used when it was checked again: its files may come back. A sample
    that a condition on its row leaves out (`is_filtered`) has neither.
    """

    measured: Measured | None
    failure: Failure | None
    is_filtered: bool = False


def pack(entries: Sequence[Entry]) -> dict[str, npt.NDArray[Any]]:
    """Returns the columns of the entries, in their order."""
    rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for number, (measured, failure, is_filtered) in enumerate(entries):
        rows["text"].append(measured.text if measured else 0)
        if measured:
            _pack_measured(rows, number, measured)
        rows["size_ends"].append(len(rows["sizes"]))
        if is_filtered:
            rows["filtered_sample"].append(number)
        if failure:
            rows["failure_sample"].append(number)
            rows["failures"] += json.dumps(failure, ensure_ascii=True).encode()
            rows["failure_ends"].append(len(rows["failures"]))
    return {name: np.array(rows[name], column.kind).reshape(-1, *column.shape) for name, column in COLUMNS.items()}


def _pack_measured(rows: dict[str, list[Any]], number: int, measured: Measured) -> None:
    rows["sizes"] += measured.sizes
    for clip, before in zip(measured.clips, measured.before, strict=True):
        rows["clip_sample"].append(number)
        rows["clips"].append((clip.duration, clip.rate, clip.frames, clip.height, clip.width))
        rows["before"] += before.encode()
        rows["before_ends"].append(len(rows["before"]))
        rows["before_hash"].append(int.from_bytes(hashlib.blake2b(before.encode(), digest_size=8).digest(), "little"))
        rows["times"] += clip.times
        rows["time_ends"].append(len(rows["times"]))
    rows["file_sample"] += [number] * len(measured.files)
    rows["files"] += measured.files
    rows["conversion_sample"] += [number] * len(measured.conversions)
    rows["conversions"] += [faithful.CONVERSIONS.index(name) for name in measured.conversions]


def unpack(columns: Columns) -> list[Entry]:
    """Returns the entries of a part.

    This is the inverse of `pack`, except that the conversions of a clip are among those of the sample, not in the clip's VideoInfo.
    """
    sizes = _lists(columns["sizes"], columns["size_ends"])
    clips: list[list[tuple[video.VideoInfo, str]]] = [[] for _ in sizes]
    each = zip(
        columns["clip_sample"].tolist(),
        columns["clips"].tolist(),
        _lists(columns["times"], columns["time_ends"]),
        _texts(columns["before"], columns["before_ends"]),
        strict=True,
    )
    for sample, (duration, rate, frames, height, width), times, before in each:
        info = video.VideoInfo(duration, rate, int(frames), int(height), int(width), times=tuple(times))
        clips[sample].append((info, before))
    files: list[list[tuple[int, int]]] = [[] for _ in sizes]
    for sample, state in zip(columns["file_sample"].tolist(), columns["files"].tolist(), strict=True):
        files[sample].append((state[0], state[1]))
    conversions: list[list[str]] = [[] for _ in sizes]
    for sample, conversion in zip(columns["conversion_sample"].tolist(), columns["conversions"].tolist(), strict=True):
        conversions[sample].append(faithful.CONVERSIONS[conversion])
    failures, filtered = failures_of(columns), set(columns["filtered_sample"].tolist())
    return [
        Entry(
            Measured(text, [(height, width) for height, width in sizes[n]], *_split(clips[n]), files[n], conversions[n]) if text else None,
            failures.get(n),
            n in filtered,
        )
        for n, text in enumerate(columns["text"].tolist())
    ]


def failures_of(columns: Columns, first: int | None = None) -> dict[int, Failure]:
    """Returns the failures of a part by sample number; only the first `first` ones if it is given."""
    samples, ends = columns["failure_sample"][:first], columns["failure_ends"][:first]
    texts = _texts(columns["failures"], ends)
    return {sample: Failure(*json.loads(text)) for sample, text in zip(samples.tolist(), texts, strict=True)}


def _split(clips: list[tuple[video.VideoInfo, str]]) -> tuple[list[video.VideoInfo], list[str]]:
    return [info for info, _ in clips], [before for _, before in clips]


def _lists(values: npt.NDArray[Any], ends: Numbers) -> list[list[Any]]:
    starts = [0, *ends.tolist()]
    return [values[start:end].tolist() for start, end in itertools.pairwise(starts)]


def _texts(values: npt.NDArray[np.uint8], ends: Numbers) -> list[str]:
    starts = [0, *ends.tolist()]
    return [values[start:end].tobytes().decode() for start, end in itertools.pairwise(starts)]


def cut(columns: Columns, start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
    """Returns the columns of the samples in [start, stop), with sample numbers and ends counted from the start of the part."""
    spans: dict[str, tuple[int, int]] = dict.fromkeys(("text", "size_ends"), (start, stop))
    for numbers, others in _OF_SAMPLES.items():
        low, high = np.searchsorted(columns[numbers], [start, stop]).tolist()
        spans |= dict.fromkeys((numbers, *others), (low, high))
    for name, column in COLUMNS.items():
        if column.counts and column.counts != "text":
            ends = columns[name]
            low, high = (int(ends[place - 1]) if place else 0 for place in spans[name])
            spans[column.counts] = low, high
    base = {name: spans[name][0] for name in COLUMNS}
    result = {name: columns[name][slice(*spans[name])] for name in COLUMNS}
    return {name: values - base[COLUMNS[name].counts] if COLUMNS[name].counts else values for name, values in result.items()}
