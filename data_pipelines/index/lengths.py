"""Lengths of every sample of a source, found from text and file headers and kept on disk."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from data_pipelines.documents import measure
from data_pipelines.failures import failure_line
from data_pipelines.index import arrays
from data_pipelines.index.measures import Measured, Measures, Numbers, file_states, inspect
from data_pipelines.media.sizes import image_grids
from data_pipelines.planning.planner import NEVER_FITS
from data_pipelines.progress import progress
from data_pipelines.randomness import stable_seed
from data_pipelines.schema import DataError, Interrupted, PhaseSettings, SampleError
from data_pipelines.sources import Source
from data_pipelines.storage import write_whole
from data_pipelines.text.tokenizers import Tokenizer

VERSION = 4  # of what is measured: raise it when a length may change
SAVE_SECONDS = 60.0  # what was measured is saved so often
_WINDOW = 1024  # samples handed to the threads at a time

Stop = Callable[[], bool]


def sample_seed(seed: int, source: str, sample: int) -> int:
    """The seed of all that is drawn for one sample (a video's frames): the same in every epoch, so that lengths hold."""
    return stable_seed("sample", seed, source, sample)


class LengthIndex:
    """What a planner needs to know of a source. Made by `open`.

    Attributes:
      name: the source's name.
      usable: [u] int64, ascending: the samples that can be used.
      unusable: how many samples cannot be used, by reason.
      conversions: how many pictures of usable samples need each of faithful.CONVERSIONS. The source's setting `pictures` says whether
        they are applied ("faithful") or the picture is altered or left as stored ("reference").
      path: the index on disk; deleting it has every sample measured again at the next start.
      log: the file that names each unusable sample.
    """

    def __init__(self, name: str, measures: Measures, unusable: Counter[str], tokenizer: Tokenizer, path: pathlib.Path, log: pathlib.Path):
        self.name = name
        self.path = path
        self.log = log
        self.usable = np.flatnonzero(measures.measured)
        self.unusable = unusable
        self.conversions = measures.conversions()
        self._measures = measures
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._measures)

    def digest(self) -> str:
        """Of what the order of the data follows from: which samples are usable and how long they are, wherever the source lies."""
        return arrays.digest(self._measures.order())

    @classmethod
    def open(
        cls, source: Source, tokenizer: Tokenizer, folder: str | pathlib.Path, threads: int = 8, stop: Stop | None = None
    ) -> LengthIndex:
        """Reads a source's index from `folder`, after measuring what it lacks.

        An index of another source file, other settings, another tokenizer or another method is not used. Of one that is, samples are
        measured again whose media files changed (size or time of change). This costs one stat a file: 0.15 s for 1,000 files on a local
        disk and two cores, most of it for reading the rows that name them. The index keeps no failures: what could not be used is
        looked at again at every opening. Samples that cannot be used are named in NAME.unusable.jsonl.

        What is measured is saved every SAVE_SECONDS and when an exception ends the work (KeyboardInterrupt too); the next opening
        goes on from there.

        Args:
          source: what is indexed.
          tokenizer: its text is counted with.
          folder: of the two files; made when missing.
          threads: that read files' headers.
          stop: asked between windows of about a thousand samples; True ends the work.

        Raises:
          DataError: no sample of the source can be used, or the index cannot be read or written.
          Interrupted: `stop` said so.
        """
        folder = pathlib.Path(folder)
        path, log = folder / f"{source.name}.lengths.npz", folder / f"{source.name}.unusable.jsonl"
        fingerprint = hashlib.sha256(repr((VERSION, source.fingerprint(), tokenizer.fingerprint)).encode()).hexdigest()
        stored = arrays.load(path, fingerprint)
        update = _Update(source, tokenizer, path, fingerprint, Measures.of([]) if stored is None else Measures.from_arrays(stored))
        measures, failures = update.run(threads, stop or (lambda: False))
        lines = (failure_line(source.name, source.key(sample), error.reason, str(error)) for sample, error in failures.items())
        _write_log(log, "".join(lines))
        usable = np.arange(len(measures))
        usable[list(failures)] = -1
        unusable = Counter(error.reason for error in failures.values())
        index = cls(source.name, measures.take(usable), unusable, tokenizer, path, log)
        if not len(index.usable):
            counts = ", ".join(f"{count} {reason}" for reason, count in unusable.most_common())
            raise DataError(
                f"no sample of source {source.name!r} can be used ({counts}); they are named in {log}. "
                f"They are looked at again at every start; to measure all samples again delete {path}"
            )
        return index

    def lengths(self, phase: PhaseSettings, seed: int) -> np.ndarray:
        """Returns [n, 4] int64: tokens, visual tokens, images, segments (1) of each sample's document in a phase.

        Equal to what build_document gives with the sample's seed. Zero where the sample cannot be used; NEVER_FITS where the
        phase takes no such sample (images in a phase without visual tokens, a video in one without frames).
        """
        text, (counts, sizes), videos = self._measures.text, self._measures.sizes, self._measures.videos
        grids = image_grids(sizes, np.repeat(counts, counts), phase) if phase.visual_tokens else np.zeros_like(sizes)
        total = np.concatenate([[0], np.cumsum(grids.prod(axis=1))])
        ends = np.cumsum(counts)
        visual = total[ends] - total[ends - counts]
        result = np.stack([text + visual, visual, counts, np.ones_like(counts)], axis=1)
        if not phase.visual_tokens:
            result[counts > 0] = NEVER_FITS
        result[videos] = self._video_lengths(phase, seed) if phase.visual_tokens and phase.frames else NEVER_FITS
        result[~self._measures.measured] = 0
        return result

    def _video_lengths(self, phase: PhaseSettings, seed: int) -> np.ndarray:
        """[videos, 4]: counted by tokenizing every clip's time marks, about a millisecond each, so kept on disk for the next start."""
        limits = (phase.min_pixels, phase.max_pixels, phase.frames, phase.frames_per_second, phase.frame_pixels)
        made_from = (VERSION, self.digest(), self._tokenizer.fingerprint, seed, limits)
        fingerprint = hashlib.sha256(repr(made_from).encode()).hexdigest()
        path = self.path.with_name(f"{self.name}.videos-{fingerprint[:16]}.npz")
        stored = arrays.load(path, fingerprint)
        if stored is not None:
            return stored["lengths"]
        videos = self._measures.videos.tolist()
        result = np.full((len(videos), 4), NEVER_FITS, np.int64)
        for number, (sample, (turns, sizes, clips)) in enumerate(zip(videos, self._measures.clips(), strict=True)):
            with contextlib.suppress(SampleError):
                of_video = measure(turns, sizes, clips, phase, self._tokenizer, sample_seed(seed, self.name, sample))
                result[number] = (*of_video, 1)
        if videos:
            arrays.save(path, {"lengths": result}, fingerprint)
        return result


class _Update:
    """Measures what an index lacks. `known` are the measures of the source's first samples, as on disk."""

    def __init__(self, source: Source, tokenizer: Tokenizer, path: pathlib.Path, fingerprint: str, known: Measures):
        self._source, self._tokenizer, self._path, self._fingerprint, self._known = source, tokenizer, path, fingerprint, known

    def run(self, threads: int, stop: Stop) -> tuple[Measures, dict[int, SampleError]]:
        """Returns the measures of all samples, and why those that cannot be used now cannot; these may have old measures."""
        with _threads(threads) as pool:
            changed = self._changed(pool, stop)
            never = np.flatnonzero(~self._known.measured)
            rest = np.arange(len(self._known), len(self._source))
            return self._measure(np.concatenate([np.union1d(changed, never), rest]), pool, stop)

    def _changed(self, pool: concurrent.futures.Executor, stop: Stop) -> Numbers:
        """The samples whose media files are not as they were when they were measured."""
        samples, states = self._known.with_files()

        def is_changed(sample: int, known: list[tuple[int, int]]) -> bool:
            try:
                return file_states(self._source[sample]) != known
            except SampleError:
                return True

        results = (
            result for window in _windows(samples, stop) for result in pool.map(is_changed, window, itertools.islice(states, len(window)))
        )
        changed = list(progress(results, len(samples), f"looking for changed media of {self._source.name}"))
        return samples[np.array(changed, bool)]

    def _measure(self, numbers: Numbers, pool: concurrent.futures.Executor, stop: Stop) -> tuple[Measures, dict[int, SampleError]]:
        found: list[Measured | None] = []  # of numbers[: len(found)]; None where unusable, and once in columns
        parts: list[Measures] = []  # the same in columns
        failures: dict[int, SampleError] = {}

        def one(sample: int) -> Measured | SampleError:
            try:
                return inspect(self._source[sample], self._tokenizer)
            except SampleError as error:
                return error

        def to_columns() -> None:
            """May be interrupted at any place by a signal handler that raises, and called again."""
            done = sum(map(len, parts))
            if done < len(found):
                parts.append(Measures.of(found[done:]))
            found[:] = [None] * len(found)

        def merged() -> Measures:
            to_columns()
            fresh = Measures.joined([Measures.of([]), *parts])
            return self._known.updated(numbers[: len(fresh)], fresh)

        saved = time.monotonic()
        results = (pair for window in _windows(numbers, stop) for pair in zip(window, pool.map(one, window), strict=True))
        try:
            for sample, result in progress(results, len(numbers), f"indexing {self._source.name}"):
                if isinstance(result, SampleError):
                    failures[sample] = result
                found.append(None if isinstance(result, SampleError) else result)
                if len(found) % _WINDOW == 0:
                    to_columns()
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self._save(merged())
                        saved = time.monotonic()
            measures = merged()
            if len(failures) < len(numbers) or len(measures) > len(self._known):
                self._save(measures)
        except BaseException:
            self._save(merged())
            raise
        return measures, failures

    def _save(self, measures: Measures) -> None:
        arrays.save(self._path, measures.arrays(), self._fingerprint)


def _windows(samples: Numbers, stop: Stop) -> Iterator[list[int]]:
    """The samples by windows. Raises Interrupted before one when `stop` says so."""
    for start in range(0, len(samples), _WINDOW):
        if stop():
            raise Interrupted(f"indexing was stopped after {start:,} of {len(samples):,} samples; the next start goes on from there")
        yield samples[start : start + _WINDOW].tolist()


@contextlib.contextmanager
def _threads(threads: int) -> Iterator[concurrent.futures.Executor]:
    """A pool whose waiting work is dropped at the end: an interrupted window is not finished first."""
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _write_log(log: pathlib.Path, text: str) -> None:
    try:
        if not log.exists() or log.read_text(encoding="utf-8") != text:
            write_whole(log, text)
    except OSError as error:
        raise DataError(f"cannot write {log} ({error}): make room for it, or name another index_folder") from error
