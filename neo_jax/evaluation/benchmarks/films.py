"""Frames of a benchmark's videos: which ones are shown, and the text around them."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.media import video
from data_pipelines.schema import Clip, DataError, Media
from data_pipelines.text.video import decimals, prefix_text, time_text
from neo_jax.evaluation.benchmarks.message import AFTER_IMAGE, Part, Pixels
from neo_jax.evaluation.benchmarks.pictures import doubled, through_jpeg

FOLDER_RATE = 3  # frames a second of a folder of pictures: MVBench's TVQA


class Length(NamedTuple):
    """Frames of a video, and frames a second."""

    frames: int
    rate: float


Choice = Callable[[Length], list[int]]


def inner(count: int) -> Choice:
    """Returns the rule for `count` frames at equal distances, neither the first nor the last."""
    return lambda length: [int(number * length.frames / (count + 1)) for number in range(1, count + 1)]


def each_second(most: int) -> Choice:
    """Returns the rule for one frame a second; if there are more than `most`, so many at equal distances, from the first frame on."""

    def choose(length: Length) -> list[int]:
        seconds = int(length.frames / length.rate)
        if seconds <= most:
            return [int(number * length.rate) for number in range(seconds)]
        return [int(number * length.frames / (most + 1)) for number in range(most)]

    return choose


def linear(count: int) -> Choice:
    """Returns the rule for `count` frames from the first to the last."""
    return lambda length: np.linspace(0, length.frames - 1, count).astype(int).tolist()


def segments(length: Length, count: int, first: int, last: int, start: float | None, end: float | None) -> list[int]:
    """Returns the middle frames of `count` parts of a video, or of what lies between two times in seconds.

    Args:
      first, last: indices of the first and last frame of the whole.
    """
    low = first if start is None else max(first, round(start * length.rate))
    high = last if end is None else min(round(end * length.rate), last)
    width = (high - low) / count
    return [int(low + width / 2 + round(width * number)) for number in range(count)]


@dataclasses.dataclass(frozen=True)
class Film:
    """The shown frames of a video.

    Attributes:
      clip: the file, or the frames as pictures.
      length: of the whole video.
      indices: of the shown frames, ascending, as the official kit counts them.
      first_index: index of the first frame of the whole: 1 for folders of pictures.
      quirks: the frames are read from JPEG files that the official kit writes, and times are written its way.
      first_doubled: whether the first frame's sides are doubled (bilinear).
    """

    clip: Clip
    length: Length
    indices: tuple[int, ...]
    first_index: int = 0
    quirks: bool = True
    first_doubled: bool = False

    @functools.cached_property
    def info(self) -> video.VideoInfo:
        return video.probe(self.clip)

    @property
    def shots(self) -> list[Shot]:
        """The frames as pictures of a prompt."""
        return [Shot(self, number) for number in range(len(self.indices))]

    @property
    def times(self) -> list[float]:
        """Time of each shown frame in seconds."""
        return [index / self.length.rate for index in self.indices]

    def frame(self, number: int) -> Pixels:
        """Returns [H, W, 3] of a shown frame. Read in order, the video is decoded once."""
        frame = self._reader.frame(number)
        frame = through_jpeg(frame) if self.quirks else frame
        return doubled(frame) if self.first_doubled and number == 0 else frame

    @functools.cached_property
    def _reader(self) -> _Reader:
        return _Reader(self)

    def opening(self) -> str:
        """Returns the sentence before the frames."""
        seconds = self.length.frames / self.length.rate
        rate = int(decimals(np.array([len(self.indices) / seconds]), 1)[0])
        return prefix_text(int(seconds), len(self.indices), rate)

    def with_times(self) -> list[Part]:
        """Returns the frames, each behind its time."""
        if self.quirks:  # the official kit rounds seconds behind the minutes: 00:60.00 is 01:00.00
            marks = [f"[{int(time // 60):02d}:{time % 60:05.2f}]:" for time in self.times]
        else:
            marks = [time_text(hundredths) for hundredths in decimals(np.array(self.times), 2).tolist()]
        return [part for mark, shot in zip(marks, self.shots, strict=True) for part in (mark, shot, AFTER_IMAGE)]


class _Reader:
    """Reads shown frames; one that lies before the last one starts again from the beginning."""

    def __init__(self, film: Film):
        self._film = film
        self._coming: Iterator[tuple[int, Pixels]] = iter(())
        self._number, self._pixels = len(film.indices), np.zeros((0, 0, 3), np.uint8)

    def frame(self, number: int) -> Pixels:
        if number < self._number:
            places = np.asarray(self._film.indices) - self._film.first_index
            self._coming, self._number = enumerate(video.read_frames(self._film.clip, self._film.info, places)), -1
        while self._number < number:
            self._number, self._pixels = next(self._coming)
        return self._pixels


@dataclasses.dataclass(frozen=True)
class Shot:
    """One shown frame."""

    film: Film
    number: int
    format: str = "JPEG"

    def size(self) -> tuple[int, int]:
        return self.film.info.height, self.film.info.width

    def shown_size(self) -> tuple[int, int]:
        height, width = self.size()
        return (2 * height, 2 * width) if self.film.first_doubled and self.number == 0 else (height, width)

    def pixels(self) -> Pixels:
        return self.film.frame(self.number)


def open_film(path: pathlib.Path, place: str, choose: Choice, quirks: bool, first_doubled: bool = False) -> Film:
    """Opens a video file and chooses its frames. Raises SampleError if it is none."""
    clip = Clip((Media(place, path=str(path), pictures="reference"),))
    info = video.probe(clip)
    length = Length(info.frames, info.rate)
    chosen = choose(length)
    if not chosen:
        raise DataError(f"{place}: {path} lasts {info.duration:.1f} s: too short to show a frame of it")
    return Film(clip, length, tuple(chosen), quirks=quirks, first_doubled=first_doubled and quirks)


def open_folder(folder: pathlib.Path, place: str, count: int, bounds: tuple[float, float] | None, quirks: bool) -> Film:
    """Opens a folder of frames, 3 a second, numbered from 1, and chooses `count` of them. Raises DataError if there are none."""
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    if not files:
        raise DataError(f"{place}: {folder} is no folder with frames")
    media = tuple(Media(f"{place}, {file.name}", path=str(file), pictures="reference") for file in files)
    length = Length(len(files), FOLDER_RATE)
    start, end = bounds or (None, None)
    indices = segments(length, count, 1, len(files), start, end)
    clip = Clip(media, tuple(number / FOLDER_RATE for number in range(len(files))))
    return Film(clip, length, tuple(indices), first_index=1, quirks=quirks)


def with_subtitles(film: Film, subtitles: Sequence[tuple[float, float, str]]) -> list[Part]:
    """Returns the frames, each behind its time, with the lines that are spoken while one of them is shown.

    Args:
      subtitles: start, end (in seconds of the video) and text of each, in order. A line stands behind the frames up to its middle; one of
        less than a second is taken as a second long.
    """
    parts: list[Part] = []
    shown, shots = 0, film.with_times()
    each = len(shots) // len(film.shots)
    for start, end, text in subtitles:
        middle = (start + end) / 2
        while shown < len(film.times) and film.times[shown] <= middle:
            parts += shots[each * shown : each * (shown + 1)]
            shown += 1
        if end - start < 1:
            start, end = middle - 0.5, middle + 0.5
        if any(start < time < end for time in film.times):
            parts.append(f"{text}\n")
    return [*parts, *shots[each * shown :]]
