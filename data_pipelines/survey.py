"""Examines rows before a configuration for them exists: which are usable, how long they are, and which to hold out.

No pixels are decoded: sizes come from the headers of files.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.documents import measure
from data_pipelines.media import images, video
from data_pipelines.media.sizes import image_grids
from data_pipelines.planning.planner import NEVER_FITS
from data_pipelines.progress import progress
from data_pipelines.schema import DataError, Media, PhaseSettings, Sample, SampleError
from data_pipelines.sources import Source
from data_pipelines.sources.containers.lines import raw_rows
from data_pipelines.text import chat
from data_pipelines.text.marks import words
from data_pipelines.text.tokenizers import Tokenizer

WINDOW = 4096  # rows handed to the threads at a time


class Row(NamedTuple):
    """A row that can be read.

    Attributes:
      source, number: index of its source, and index of the row in the source.
      sample: the conversation.
      sizes: (height, width) of each image.
      clips: header of each of its videos.
    """

    source: int
    number: int
    sample: Sample
    sizes: list[tuple[int, int]]
    clips: list[video.VideoInfo]


class LeftOut(NamedTuple):
    """A row that cannot be used, and why."""

    source: str
    key: str
    reason: str
    message: str


def read_rows(sources: Sequence[Source], threads: int = 8) -> tuple[list[Row], list[LeftOut]]:
    """Reads every row of the sources and the headers of its media files."""
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for place, source in enumerate(sources):
            one = functools.partial(_read_row, place, source)
            windows = (range(start, min(start + WINDOW, len(source))) for start in range(0, len(source), WINDOW))
            results = (result for window in windows for result in pool.map(one, window))
            for result in progress(results, len(source), f"looking at {source.name}"):
                if isinstance(result, Row):
                    rows.append(result)
                else:
                    left_out.append(result)
    return rows, left_out


def _read_row(place: int, source: Source, number: int) -> Row | LeftOut:
    try:
        sample = source[number]
        sizes = [images.image_size(image) for image in sample.images]
        return Row(place, number, sample, sizes, [video.probe(clip) for clip in sample.clips])
    except SampleError as error:
        return LeftOut(source.name, source.key(number), error.reason, str(error))


@dataclasses.dataclass(frozen=True)
class Survey:
    """Rows that can be trained on, measured with a tokenizer. n rows, p images.

    Attributes:
      rows: [n] the rows.
      source: [n] index of each row's source.
      text: [n] number of tokens without image tokens; for a row with clips, also without their frames.
      answers: [n] number of tokens of the last answer, including its end token.
      pictures: [n] number of images of each row.
      sizes: [p, 2] height and width of each image, in the order of rows.
      tokenizer: tokenizer that counted the tokens.
    """

    rows: list[Row]
    source: npt.NDArray[np.int64]
    text: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    pictures: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    tokenizer: Tokenizer

    @classmethod
    def of(cls, rows: Sequence[Row], names: Sequence[str], tokenizer: Tokenizer) -> tuple[Survey, list[LeftOut]]:
        """Counts the tokens of rows. Excludes rows without labels and rows that the tokenizer cannot encode.

        Args:
          names: names of the sources.
        """
        kept: list[Row] = []
        left_out: list[LeftOut] = []
        counts: list[tuple[int, int]] = []
        for row in progress(rows, len(rows), "counting tokens"):
            try:
                counts.append(_count(row, tokenizer))
                kept.append(row)
            except SampleError as error:
                left_out.append(LeftOut(names[row.source], row.sample.key, error.reason, str(error)))
        text, answers = np.array(counts, np.int64).reshape(-1, 2).T
        sizes = np.array([size for row in kept for size in row.sizes], np.int64).reshape(-1, 2)
        places = np.array([row.source for row in kept], np.int64)
        return cls(kept, places, text, answers, np.array([len(row.sizes) for row in kept], np.int64), sizes, tokenizer), left_out

    @property
    def has_media(self) -> npt.NDArray[np.bool_]:
        """[n] bool: True for rows with images or clips."""
        return self.pictures.astype(bool) | np.array([bool(row.clips) for row in self.rows], bool)

    def lengths(self, phase: PhaseSettings) -> npt.NDArray[np.int64]:
        """Returns [n, 3] tokens, visual tokens and images of each row's document in a phase with images.

        Clips are measured at the phase's highest frame rate; the entries are NEVER_FITS if the phase takes no clips.
        """
        per_image = image_grids(self.sizes, np.repeat(self.pictures, self.pictures), phase).prod(axis=1)
        total = np.concatenate([[0], np.cumsum(per_image)])
        ends = np.cumsum(self.pictures)
        visual = total[ends] - total[ends - self.pictures]
        result = np.stack([self.text + visual, visual, self.pictures], axis=1)
        densest = dataclasses.replace(phase, frames_per_second=(phase.frames_per_second[1],) * 2)
        for number, row in enumerate(self.rows):
            if row.clips:
                taken = phase.frames > 0
                result[number] = measure(row.sample.turns, row.sizes, row.clips, densest, self.tokenizer, 0) if taken else NEVER_FITS
        return result


def _count(row: Row, tokenizer: Tokenizer) -> tuple[int, int]:
    """Returns (number of tokens of the text, number of tokens of the last answer). Raises SampleError "no_answer", or as chat.count."""
    tokens, labels = chat.count(row.sample.turns, len(row.sizes), tokenizer)
    if not labels:
        raise SampleError("no_answer", f"{row.sample.key}: no assistant turn to learn from; give it one that is not is_input")
    last = next((turn.text for turn in reversed(row.sample.turns) if turn.role == "assistant"), "")
    return tokens, len(tokenizer.encode(words(last))) + 1


def texts(rows: Sequence[Row]) -> Iterator[str]:
    """Yields the texts on which a tokenizer for these rows is trained."""
    return (line for row in rows for turn in row.sample.turns for line in words(turn.text).splitlines() if line)


def choose_heldout(rows: Sequence[Row], sources: int, share: float, most: int) -> npt.NDArray[np.bool_]:
    """Returns [n] bool: True for rows that are held out. Deterministic. No held-out row shares a file or its whole text with another row.

    Args:
      sources: number of sources.
      share: largest share of a source's rows that is held out; at least one row may be held out if the source has two or more.
      most: largest number of rows of a source that are held out.

    Raises:
      DataError: all rows are connected by shared files, so that none can be held out.
    """
    groups = _groups(rows)
    sizes = collections.Counter(row.source for row in rows)
    room = [min(max(1, int(share * sizes[source])), most, sizes[source] - 1) for source in range(sources)]
    heldout = np.zeros(len(rows), bool)
    for group in sorted(groups, key=lambda group: hashlib.sha256(rows[group[0]].sample.key.encode()).digest()):
        taken = collections.Counter(rows[number].source for number in group)
        if len(group) < len(rows) and all(count <= room[source] for source, count in taken.items()):
            heldout[group] = True
            for source, count in taken.items():
                room[source] -= count
    if not heldout.any():
        if len(groups) < 2:
            raise DataError(
                f"the {len(rows)} usable rows share their files or are equal, so that no part can be held out from the others: give more rows"
            )
        heldout[min(groups, key=lambda group: (len(group), group))] = True
    return heldout


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """Groups the numbers of rows that share a file or are equal."""
    above = list(range(len(rows)))

    def top(number: int) -> int:
        while above[number] != number:
            above[number] = number = above[above[number]]
        return number

    first: dict[object, int] = {}
    for number, row in enumerate(rows):
        sample = row.sample
        for identity in map(_identity, sample.files) if sample.files else [sample.turns]:
            above[top(number)] = top(first.setdefault(identity, number))
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for number in range(len(rows)):
        groups[top(number)].append(number)
    return list(groups.values())


def _identity(media: Media) -> object:
    return media.path or hashlib.sha256(images.read_bytes(media)).digest()


def write_rows(path: pathlib.Path, outputs: Sequence[tuple[pathlib.Path, set[int]]]) -> None:
    """Copies rows of a JSON or JSONL file unchanged to JSONL files.

    Args:
      outputs: pairs of an output file and the numbers of its rows, as the source counts them.
    """
    files = [(output.open("wb"), numbers) for output, numbers in outputs]
    try:
        for number, row in enumerate(raw_rows(str(path), path.name)):
            for file, numbers in files:
                if number in numbers:
                    file.write(row + b"\n")
    finally:
        for file, _ in files:
            file.close()
