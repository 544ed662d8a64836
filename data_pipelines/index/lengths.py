"""Lengths of every sample of a source, found from text and file headers once and kept on disk."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import hashlib
import io
import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_pipelines.documents import image_grids, measure
from data_pipelines.failures import failure_line
from data_pipelines.media import images, video
from data_pipelines.planning.planner import NEVER_FITS
from data_pipelines.progress import progress
from data_pipelines.randomness import stable_seed
from data_pipelines.schema import NO_LABEL, DataError, PhaseSettings, Sample, SampleError, Turn
from data_pipelines.sources import Source
from data_pipelines.storage import write_whole
from data_pipelines.text import chat
from data_pipelines.text.tokenizers import Tokenizer

VERSION = 2  # of what is measured: raise it when a length may change
_WINDOW = 4096  # samples handed to the threads at a time


def sample_seed(seed: int, source: str, sample: int) -> int:
    """The seed of all that is drawn for one sample (a video's frames): the same in every epoch, so that lengths hold."""
    return stable_seed("sample", seed, source, sample)


class Measured(NamedTuple):
    """What the index keeps of one sample.

    Attributes:
      text: tokens, with an image counted as its two brackets. Not used where `info` is given: frames bring their own text.
      sizes: (height, width) of each image.
      info: of the video, or None.
      turns: the conversation of a video sample, as JSON; else "".
    """

    text: int
    sizes: list[tuple[int, int]]
    info: video.VideoInfo | None
    turns: str


def inspect(sample: Sample, tokenizer: Tokenizer) -> Measured:
    """Measures a sample without decoding pixels. Raises SampleError for one that cannot be used, "no_answer" where nothing has a label."""
    if sample.video is not None:
        _check_answer(chat.encode(sample.turns, [], tokenizer)[1], sample.key)
        turns = json.dumps([(turn.role, turn.text, turn.is_input) for turn in sample.turns])
        return Measured(0, [], video.probe(sample.video), turns)
    sizes = [images.image_size(image) for image in sample.images]
    tokens, labels = chat.encode(sample.turns, [0] * len(sizes), tokenizer)
    _check_answer(labels, sample.key)
    return Measured(len(tokens), sizes, None, "")


def _check_answer(labels: np.ndarray, key: str) -> None:
    if not (labels != NO_LABEL).any():
        raise SampleError("no_answer", f"{key}: no assistant turn to learn from; give it one that is not is_input")


class LengthIndex:
    """What a planner needs to know of a source. Made by `open`.

    Attributes:
      name: the source's name.
      usable: [u] int64, ascending: the samples that can be used.
      unusable: how many samples cannot be used, by reason.
      log: the file that names each of them.
    """

    def __init__(self, name: str, columns: dict[str, np.ndarray], tokenizer: Tokenizer, log: pathlib.Path, fingerprint: str):
        self.name = name
        self.log = log
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._columns = columns
        self.usable = np.setdiff1d(np.arange(len(columns["text"])), columns["unusable"], assume_unique=True)
        self.unusable = collections.Counter(columns["reasons"].tolist())

    def __len__(self) -> int:
        return len(self._columns["text"])

    def digest(self) -> str:
        """Of every sample's measures: what the order of the data follows from. The same for the same samples in another place."""
        digest = hashlib.sha256()
        for name, column in sorted(self._columns.items()):
            digest.update(f"{name} {column.dtype} {column.shape}".encode())
            digest.update(np.ascontiguousarray(column))
        return digest.hexdigest()

    @classmethod
    def open(cls, source: Source, tokenizer: Tokenizer, folder: str | pathlib.Path, threads: int = 8) -> LengthIndex:
        """Reads a source's index from `folder`, after building it when there is none or it is of another state of things.

        It is rebuilt when the source's own files, its settings, the tokenizer or the method changed. Changes to media files
        are not seen: delete the index after repairing some. Samples that cannot be used are named in NAME.unusable.jsonl.

        Args:
          source: what is indexed.
          tokenizer: its text is counted with.
          folder: of the two files; made when missing.
          threads: that read files' headers while building.

        Raises:
          DataError: no sample of the source can be used.
        """
        folder = pathlib.Path(folder)
        path, log = folder / f"{source.name}.lengths.npz", folder / f"{source.name}.unusable.jsonl"
        fingerprint = hashlib.sha256(repr((VERSION, source.fingerprint(), tokenizer.fingerprint)).encode()).hexdigest()
        columns = _load(path, fingerprint)
        if columns is None:
            columns, lines = _build(source, tokenizer, threads)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(log, "".join(lines).encode())
            _save(path, columns | {"fingerprint": np.array(fingerprint)})
        index = cls(source.name, columns, tokenizer, log, fingerprint)
        if not len(index.usable):
            counts = ", ".join(f"{count} {reason}" for reason, count in index.unusable.most_common())
            raise DataError(f"no sample of source {source.name!r} can be used ({counts}); see {log}")
        return index

    def lengths(self, phase: PhaseSettings, seed: int) -> np.ndarray:
        """Returns [n, 4] int64: tokens, visual tokens, images, segments (1) of each sample's document in a phase.

        Equal to what build_document gives with the sample's seed. Zero where the sample cannot be used; NEVER_FITS where the
        phase takes no such sample (images in a phase without visual tokens, a video in one without frames).
        """
        text, ends, sizes = self._columns["text"], self._columns["image_ends"], self._columns["sizes"]
        counts = np.diff(ends, prepend=0)
        if phase.visual_tokens == 0:
            result = np.stack([text, np.zeros_like(text), counts, np.ones_like(text)], axis=1)
            result[counts > 0] = NEVER_FITS
            result[self._columns["videos"]] = NEVER_FITS
            result[self._columns["unusable"]] = 0
            return result
        visual = np.zeros_like(text)
        if phase.visual_tokens:
            per_image = image_grids(sizes, np.repeat(counts, counts), phase).prod(axis=1)
            total = np.concatenate([[0], np.cumsum(per_image)])
            visual = total[ends] - total[ends - counts]
        result = np.stack([text + visual, visual, counts, np.ones_like(counts)], axis=1)
        if not phase.visual_tokens:
            result[counts > 0] = NEVER_FITS
        result[self._columns["unusable"]] = 0
        result[self._columns["videos"]] = self._video_lengths(phase, seed)
        return result

    def _video_lengths(self, phase: PhaseSettings, seed: int) -> np.ndarray:
        """[videos, 4]: counted by tokenizing every clip's time marks, about a millisecond each, so kept on disk for the next start."""
        limits = (phase.min_pixels, phase.max_pixels, phase.frames, phase.frames_per_second, phase.frame_pixels)
        digest = hashlib.sha256(repr((self._fingerprint, seed, limits)).encode()).hexdigest()
        path = self.log.with_name(f"{self.name}.videos-{digest[:16]}.npy")
        if path.exists():
            return np.load(path, allow_pickle=False)
        result = np.full((len(self._columns["videos"]), 4), NEVER_FITS, np.int64)
        for number, (sample, turns, info) in enumerate(self._videos()):
            with contextlib.suppress(SampleError):
                of_video = measure(turns, [], info, phase, self._tokenizer, sample_seed(seed, self.name, sample))
                result[number] = (*of_video, 1)
        if len(result):
            content = io.BytesIO()
            np.save(content, result, allow_pickle=False)
            write_whole(path, content.getbuffer())
        return result

    def _videos(self) -> Iterator[tuple[int, list[Turn], video.VideoInfo]]:
        ends, blob = self._columns["turn_ends"], self._columns["turns"]
        for number, sample in enumerate(self._columns["videos"].tolist()):
            start = ends[number - 1] if number else 0
            turns = [Turn(*fields) for fields in json.loads(blob[start : ends[number]].tobytes())]
            duration, rate, frames, height, width = self._columns["infos"][number].tolist()
            yield sample, turns, video.VideoInfo(duration, rate, int(frames), int(height), int(width))


def _build(source: Source, tokenizer: Tokenizer, threads: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the columns of the index and a line of log for each unusable sample."""
    text = np.zeros(len(source), np.int64)
    counts = np.zeros(len(source), np.int64)
    sizes: list[tuple[int, int]] = []
    unusable: list[int] = []
    reasons: list[str] = []
    lines: list[str] = []
    videos: list[int] = []
    infos: list[tuple[float, ...]] = []
    turns: list[bytes] = []
    for sample, result in _inspect_all(source, tokenizer, threads):
        if isinstance(result, SampleError):
            unusable.append(sample)
            reasons.append(result.reason)
            lines.append(failure_line(source.name, source.key(sample), result.reason, str(result)))
            continue
        text[sample], counts[sample] = result.text, len(result.sizes)
        sizes += result.sizes
        if result.info is not None:
            info = result.info
            videos.append(sample)
            infos.append((info.duration, info.rate, info.frames, info.height, info.width))
            turns.append(result.turns.encode())
    columns = {
        "text": text,
        "image_ends": np.cumsum(counts),
        "sizes": np.array(sizes, np.int64).reshape(-1, 2),
        "unusable": np.array(unusable, np.int64),
        "reasons": np.array(reasons, np.str_),
        "videos": np.array(videos, np.int64),
        "infos": np.array(infos, np.float64).reshape(-1, 5),
        "turns": np.frombuffer(b"".join(turns), np.uint8),
        "turn_ends": np.cumsum([len(item) for item in turns], dtype=np.int64),
    }
    return columns, lines


def _inspect_all(source: Source, tokenizer: Tokenizer, threads: int) -> Iterator[tuple[int, Measured | SampleError]]:
    """Yields every sample's number and measures, in order; threads overlap the reading of files."""

    def one(sample: int) -> Measured | SampleError:
        try:
            return inspect(source[sample], tokenizer)
        except SampleError as error:
            return error

    total = len(source)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        windows = (range(start, min(start + _WINDOW, total)) for start in range(0, total, _WINDOW))
        results = (result for window in windows for result in zip(window, pool.map(one, window), strict=True))
        yield from progress(results, total, f"indexing {source.name}")


def _load(path: pathlib.Path, fingerprint: str) -> dict[str, np.ndarray] | None:
    """The columns of an index on disk, or None when there is none of this state of things."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # none yet, or not written here
        return None
    return columns if str(columns.pop("fingerprint", "")) == fingerprint else None


def _save(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, **columns)  # type: ignore[arg-type]
    write_whole(path, content.getbuffer())
