"""What the length index keeps of samples: measured from text and file headers, held in columns."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.media import faithful, images, video
from data_pipelines.schema import NO_LABEL, Media, Sample, SampleError, Turn
from data_pipelines.text import chat
from data_pipelines.text.tokenizers import Tokenizer

Numbers = npt.NDArray[np.int64]

_COLUMNS: Mapping[str, tuple[type, tuple[int, ...]]] = {  # type and shape of one value
    "text": (np.int64, ()),
    "sizes": (np.int64, (2,)),
    "clips": (np.float64, (6,)),  # duration, rate, frames, height, width, number of times
    "times": (np.float64, ()),
    "turns": (np.uint8, ()),
    "files": (np.int64, (2,)),
    "conversions": (np.uint8, ()),
}
_ORDER = ("text", "sizes", "clips", "times", "turns")  # what lengths, and so the order of the data, follow from


class Measured(NamedTuple):
    """What the index keeps of one sample.

    Attributes:
      text: tokens, with an image counted as its two brackets. Not used where there are clips: frames bring their own text.
      sizes: (height, width) of each image.
      clips: what is known of each clip.
      turns: the conversation of a sample with clips, as JSON; else "".
      files: state of each media file that is not part of the source, before it was read.
      conversions: of all pictures, names in faithful.CONVERSIONS.
    """

    text: int
    sizes: Sequence[tuple[int, int]]
    clips: Sequence[video.VideoInfo]
    turns: str
    files: Sequence[tuple[int, int]]
    conversions: Sequence[str]


def inspect(sample: Sample, tokenizer: Tokenizer) -> Measured:
    """Measures a sample without decoding pixels. Raises SampleError for one that cannot be used, "no_answer" where nothing has a label."""
    files = file_states(sample)
    headers = [images.header(image) for image in sample.images]
    tokens, labels = chat.encode(sample.turns, [0] * len(headers), tokenizer)
    _check_answer(labels, sample.key)
    clips = [video.probe(clip) for clip in sample.clips]
    turns = json.dumps([(turn.role, turn.text, turn.is_input) for turn in sample.turns]) if clips else ""
    conversions = [name for header in headers for name in header.conversions] + [name for clip in clips for name in clip.conversions]
    return Measured(len(tokens), [(header.height, header.width) for header in headers], clips, turns, files, conversions)


def _check_answer(labels: np.ndarray, key: str) -> None:
    if not (labels != NO_LABEL).any():
        raise SampleError("no_answer", f"{key}: no assistant turn to learn from; give it one that is not is_input")


def file_states(sample: Sample) -> list[tuple[int, int]]:
    """(bytes, nanoseconds of the last change) of each media file; (-1, -1) where there is none. Media inside the source have no state."""
    return [_file_state(media) for media in sample.files if media.path is not None]


def _file_state(media: Media) -> tuple[int, int]:
    assert media.path is not None
    try:
        status = media.path.stat()
    except OSError:  # reading the file says what is wrong
        return -1, -1
    return status.st_size, status.st_mtime_ns


class _Column(NamedTuple):
    """Some values for each sample: `counts` [n] of them, all `values` one after the other."""

    counts: Numbers
    values: npt.NDArray[Any]

    def take(self, rows: Numbers) -> _Column:
        starts = np.cumsum(self.counts) - self.counts
        counts = self.counts[rows]
        first = np.cumsum(counts) - counts
        return _Column(counts, self.values[np.repeat(starts[rows] - first, counts) + np.arange(counts.sum())])

    def of(self, samples: Numbers) -> Iterator[npt.NDArray[Any]]:
        """The values of each of some samples."""
        ends = np.cumsum(self.counts)
        for start, end in zip((ends - self.counts)[samples].tolist(), ends[samples].tolist(), strict=True):
            yield self.values[start:end]


@dataclasses.dataclass(frozen=True)
class Measures:
    """Measures of n samples. A sample that is not measured has no values."""

    columns: Mapping[str, _Column]

    def __len__(self) -> int:
        return len(self.columns["text"].counts)

    @classmethod
    def of(cls, samples: Sequence[Measured | None]) -> Measures:
        """The measures of samples in order; None for one that is not measured."""
        rows = [_values(sample) for sample in samples if sample is not None]
        measured = np.array([sample is not None for sample in samples], bool)
        columns = {}
        for name, (kind, shape) in _COLUMNS.items():
            counts = np.zeros(len(samples), np.int64)
            counts[measured] = [len(row[name]) for row in rows]
            columns[name] = _Column(counts, np.concatenate([np.zeros((0, *shape), kind), *(row[name] for row in rows)]))
        return cls(columns)

    @classmethod
    def joined(cls, parts: Sequence[Measures]) -> Measures:
        columns = {}
        for name in _COLUMNS:
            each = [part.columns[name] for part in parts]
            columns[name] = _Column(np.concatenate([c.counts for c in each]), np.concatenate([c.values for c in each]))
        return cls(columns)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Measures:
        """The inverse of `arrays`."""
        return cls({name: _Column(arrays[f"{name}_counts"], arrays[name]) for name in _COLUMNS})

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The columns as arrays by name, for a file."""
        counts = {f"{name}_counts": column.counts for name, column in self.columns.items()}
        return counts | {name: column.values for name, column in self.columns.items()}

    def order(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that lengths follow from: without the states of files and conversions."""
        arrays = self.arrays()
        return {name: arrays[name] for column in _ORDER for name in (column, f"{column}_counts")}

    def take(self, rows: Numbers) -> Measures:
        """The measures of the samples `rows`, in that order; -1 stands for a sample that is not measured."""
        with_empty = Measures.joined([self, Measures.of([None])])
        return Measures({name: column.take(rows) for name, column in with_empty.columns.items()})

    def updated(self, numbers: Numbers, fresh: Measures) -> Measures:
        """These measures with fresh ones of the samples `numbers`, ascending. Where fresh ones are missing the old ones stay."""
        rows = np.full(max(len(self), int(numbers[-1]) + 1 if len(numbers) else 0), -1, np.int64)
        rows[: len(self)] = np.arange(len(self))
        rows[numbers[fresh.measured]] = len(self) + np.flatnonzero(fresh.measured)
        return Measures.joined([self, fresh]).take(rows)

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """[n]"""
        return self.columns["text"].counts > 0

    @property
    def text(self) -> Numbers:
        """[n] tokens without visual ones; 0 where not measured."""
        text = np.zeros(len(self), np.int64)
        text[self.measured] = self.columns["text"].values
        return text

    @property
    def sizes(self) -> tuple[Numbers, Numbers]:
        """[n] how many images each sample has, and [images, 2] their heights and widths."""
        return self.columns["sizes"]

    @property
    def videos(self) -> Numbers:
        """[v] the samples with clips."""
        return np.flatnonzero(self.columns["clips"].counts)

    def clips(self) -> Iterator[tuple[list[Turn], list[tuple[int, int]], list[video.VideoInfo]]]:
        """The conversation, the sizes of the images and the clips of each sample of `videos`."""
        columns = [self.columns[name].of(self.videos) for name in ("turns", "sizes", "clips", "times")]
        for turns, sizes, clips, times in zip(*columns, strict=True):
            shown_at = iter(times.tolist())
            infos = [
                video.VideoInfo(duration, rate, int(frames), int(height), int(width), times=tuple(itertools.islice(shown_at, int(given))))
                for duration, rate, frames, height, width, given in clips.tolist()
            ]
            yield [Turn(*fields) for fields in json.loads(turns.tobytes())], [(height, width) for height, width in sizes.tolist()], infos

    def with_files(self) -> tuple[Numbers, Iterator[list[tuple[int, int]]]]:
        """The samples [f] with media files of their own, and for each the states of these files when they were measured."""
        column = self.columns["files"]
        samples = np.flatnonzero(column.counts)
        return samples, ([(size, time) for size, time in states.tolist()] for states in column.of(samples))

    def conversions(self) -> collections.Counter[str]:
        """How many pictures (images and clips) need each conversion."""
        counts = np.bincount(self.columns["conversions"].values, minlength=len(faithful.CONVERSIONS)).tolist()
        return collections.Counter({name: count for name, count in zip(faithful.CONVERSIONS, counts, strict=True) if count})


def _values(sample: Measured) -> dict[str, npt.NDArray[Any]]:
    clips = sample.clips
    lists = {
        "text": [sample.text],
        "sizes": sample.sizes,
        "clips": [(clip.duration, clip.rate, clip.frames, clip.height, clip.width, len(clip.times)) for clip in clips],
        "times": [time for clip in clips for time in clip.times],
        "turns": np.frombuffer(sample.turns.encode(), np.uint8),
        "files": sample.files,
        "conversions": [faithful.CONVERSIONS.index(name) for name in sample.conversions],
    }
    return {name: np.array(lists[name], kind).reshape(-1, *shape) for name, (kind, shape) in _COLUMNS.items()}
