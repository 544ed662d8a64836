"""Computes lengths of samples in a phase from the index's columns on demand, without a loop over samples, clips or frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_pipelines.index.columns import Columns, Numbers
from data_pipelines.index.filters import Filters
from data_pipelines.index.pieces import PieceCounts
from data_pipelines.index.spans import Rows, members, ragged, spans, sums
from data_pipelines.media import sizes
from data_pipelines.media.frames import Chosen, choose, shown
from data_pipelines.planning.too_long import FILTERED, NEVER_FITS
from data_pipelines.randomness import scramble, spread, stable_seed
from data_pipelines.schema import VISUAL_TOKEN_SIDE, PhaseSettings
from data_pipelines.text.video import decimals

_CLIPS = 4096  # clips that are processed at a time: some megabytes for each 100 frames


def sample_seeds(seed: int, source: str, samples: Numbers) -> npt.NDArray[np.uint64]:
    """Returns the seeds of samples' random choices (a video's frames). They are the same in every epoch, so that lengths do not change."""
    return scramble(spread(stable_seed("sample", seed, source), samples))


class PhaseLengths:
    """Lengths of a source's samples in one phase: an array whose rows are computed when they are indexed.

    `lengths[samples]`, for numbers [k] or a slice with neither step nor negative ends, is [k, 4] int64: tokens, visual tokens, images,
    segments (1) of each sample's document, equal to those of build_document with the sample's seed. A row is zero if the sample cannot be
    used, FILTERED if the source's `keep` leaves it out, and NEVER_FITS if the phase takes no such sample (images in a phase without visual
    tokens, a video in a phase without frames).
    """

    def __init__(self, columns: Columns, phase: PhaseSettings, seed: int, source: str, pieces: PieceCounts, filters: Filters):
        self._columns, self._phase, self._seed, self._source, self._pieces = columns, phase, seed, source, pieces
        self._filters = filters

    def __len__(self) -> int:
        return len(self._columns["text"])

    def __getitem__(self, samples: Rows) -> Numbers:
        rows: Rows = slice(*samples.indices(len(self))) if isinstance(samples, slice) else np.asarray(samples, np.int64)
        text = self._columns["text"][rows].astype(np.int64)
        images, visual = self._images(rows)
        result = np.empty((len(text), 4), np.int64)
        result[:, 0] = text + visual
        result[:, 1] = visual
        result[:, 2] = images
        result[:, 3] = 1
        self._add_clips(result, rows)
        if not self._phase.visual_tokens:
            result[images > 0] = NEVER_FITS
        result[self._filters.rejected(self._columns, rows)] = FILTERED
        result[members(self._columns["failure_sample"], rows)[1]] = 0
        return result

    def _images(self, rows: Rows) -> tuple[Numbers, Numbers]:
        """Returns [k] the number of images of each sample, and [k] the number of their visual tokens."""
        starts, ends = spans(self._columns["size_ends"], rows)
        counts = ends - starts
        if not counts.any() or not self._phase.visual_tokens:
            return counts, np.zeros_like(counts)
        hw = self._columns["sizes"]
        hw = hw[starts[0] : ends[-1]] if isinstance(rows, slice) else hw[ragged(starts, counts)]
        of_sample = 1 if (is_single := bool((counts <= 1).all())) else np.repeat(counts, counts)
        tokens = _tokens(sizes.image_grids(hw, of_sample, self._phase))
        if is_single:
            visual = np.zeros_like(counts)
            visual[counts > 0] = tokens
            return counts, visual
        return counts, sums(tokens, counts)

    def _add_clips(self, result: Numbers, rows: Rows) -> None:
        owners = self._columns["clip_sample"]
        if not len(owners):
            return
        clips, places = members(owners, rows)
        if not len(clips):
            return
        numbers = clips - np.searchsorted(owners, owners[clips])
        if not self._phase.visual_tokens or self._phase.frames < 1:
            result[places] = NEVER_FITS
            return
        for start in range(0, len(clips), _CLIPS):
            part = slice(start, start + _CLIPS)
            text, visual, frames = self._clips(clips[part], numbers[part])
            np.add.at(result, places[part], np.stack([text + visual, visual, frames, np.zeros_like(frames)], axis=1))

    def _clips(self, clips: Numbers, numbers: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Returns, each [c], the tokens of text and brackets of clips' frames, their visual tokens, and the number of frames shown.

        Args:
          clips: rows of the clips' columns.
          numbers: number of each clip in its sample.
        """
        columns = self._columns
        seeds = spread(sample_seeds(self._seed, self._source, columns["clip_sample"][clips]), numbers)
        durations, rates, in_all, heights, widths = columns["clips"][clips].T
        frames = in_all.astype(np.int64)
        chosen = choose(durations, rates, frames, self._phase, seeds)
        counts = chosen.counts
        limits = sizes.frame_limits(counts, self._phase)
        resized = sizes.smart_resize(np.stack([heights, widths], axis=1), self._phase.min_pixels, limits)
        visual = _tokens(resized // VISUAL_TOKEN_SIDE) * counts
        ends = np.cumsum(counts)
        owner = np.repeat(np.arange(len(clips)), counts)
        number = np.arange(ends[-1]) - (ends - counts)[owner]
        indices = shown(number, Chosen(*(each[owner] for each in chosen)), frames[owner], self._phase)
        times = decimals(self._seconds(clips, owner, indices, rates), 2)
        first = times[ends - counts]
        marks = sums(self._pieces.marks(times), counts) - self._pieces.marks(first)
        heads = self._pieces.heads(
            columns["before_hash"][clips], durations.astype(np.int64), counts, decimals(counts / durations, 1), first,
            lambda place: self._before(int(clips[place])),
        )  # fmt: skip
        text: Numbers = 2 * counts + marks + heads
        return text, visual, counts

    def _seconds(self, clips: Numbers, owner: Numbers, indices: Numbers, rates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns [f] the times in seconds at which frames are shown, as media.video.timestamps computes them."""
        seconds: npt.NDArray[np.float64] = indices / rates[owner]
        if len(self._columns["times"]):
            starts, ends = spans(self._columns["time_ends"], clips)
            given = (ends > starts)[owner]
            seconds[given] = self._columns["times"][starts[owner[given]] + indices[given]]
        return seconds

    def _before(self, clip: int) -> str:
        ends = self._columns["before_ends"]
        return bytes(self._columns["before"][ends[clip - 1] if clip else 0 : ends[clip]]).decode()


def _tokens(grids: Numbers) -> Numbers:
    return grids[:, 0] * grids[:, 1]
