"""Draws the samples of a phase: chooses a source by the mixture's weights, then takes that source's next sample that fits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.planning.too_long import Lookup
from data_pipelines.randomness import permute, scramble, weyl

Numbers = npt.NDArray[np.int64]

_CHUNK = 1024  # samples drawn at a time, and smallest number of samples looked up in a source at a time
_MAX_LOOKUP = 1 << 18


class Draw(NamedTuple):
    """One sample of a row: index of the source, index of the sample in it, and the epoch in which it is read."""

    source: int
    sample: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class MixedSource:
    """A source of a phase's mixture. At least one of its usable samples fits the budgets.

    Attributes:
      name: name of the source.
      usable: [u] int64: indices of the samples that can be read.
      lengths: [n, 4] int64: tokens, visual tokens, images, segments of each sample.
      seed: seed for the order of its samples.
      share: weight in the mixture.
      max_epochs: largest number of times that its samples are read over the run; 0: no limit.
    """

    name: str
    usable: Lookup
    lengths: Lookup
    seed: int
    share: float
    max_epochs: float = 0.0


class Samples(NamedTuple):
    """Samples of one source that fit: indices, epochs, the source's position after each sample, and [k, 4] lengths."""

    samples: Numbers
    epochs: Numbers
    after: Numbers
    lengths: Numbers


class Draws:
    """The draws of a phase from a cursor on, computed on demand. Any run of consecutive draws has about the mixture's shares.

    A source that has reached its max_epochs is not drawn from any more; its share is divided among the others by their weights.
    The draws do not depend on how many are requested at a time.

    Args:
      sources: sources by their index.
      cursor: number of draws made before.
      positions: number of samples taken before from each source of the run.
      budgets: [4] budgets of a row; samples that exceed one are skipped.
    """

    def __init__(
        self,
        sources: Mapping[int, MixedSource],
        cursor: int,
        positions: Sequence[int],
        budgets: npt.ArrayLike,
    ):
        self._numbers = np.array(list(sources), np.int64)
        self._streams = [_Stream(source, positions[number], np.asarray(budgets, np.int64)) for number, source in sources.items()]
        self._cursor = cursor
        self._left = list(range(len(self._streams)))  # streams that are not used up
        self._source = np.zeros(0, np.int64)
        self._drawn = _empty(0)

    def lengths(self, count: int) -> Numbers:
        """Returns the [m, 4] lengths of the draws: at least the first `count`, fewer if all sources are used up."""
        while len(self._source) < count and self._left:
            self._draw(max(_CHUNK, count - len(self._source)))
        return self._drawn.lengths

    def first(self, count: int) -> list[Draw]:
        """Returns the first `count` draws; `lengths` must have been called for them."""
        columns = (self._source, self._drawn.samples, self._drawn.epochs)
        return list(map(Draw, *(column[:count].tolist() for column in columns)))

    def positions(self, taken: int, before: Sequence[int]) -> tuple[int, ...]:
        """Returns the sources' positions after the first `taken` draws, given the positions before the first draw."""
        positions = np.array(before, np.int64)
        np.maximum.at(positions, self._source[:taken], self._drawn.after[:taken])
        return tuple(positions.tolist())

    def _draw(self, count: int) -> None:
        """Makes `count` more draws, or fewer if a source is used up before that."""
        choices = self._choose(count)
        drawn = _empty(count)
        complete = count  # number of draws before the first one whose source is used up
        for choice, stream in enumerate(self._streams):
            places = np.flatnonzero(choices == choice)
            if (ready := stream.ready(len(places))) < len(places) and places[ready] < complete:
                complete, used_up = int(places[ready]), choice
        for choice, stream in enumerate(self._streams):
            places = np.flatnonzero(choices[:complete] == choice)
            for column, values in zip(drawn, stream.take(len(places)), strict=True):
                column[places] = values
        if complete < count:
            self._left.remove(used_up)
        self._cursor += complete
        self._source = np.concatenate([self._source, self._numbers[choices[:complete]]])
        self._drawn = _join(self._drawn, Samples(*(column[:complete] for column in drawn)))

    def _choose(self, count: int) -> Numbers:
        """Returns [count] the stream of each of the next draws, chosen by the shares of the streams that are not used up."""
        shares = np.array([self._streams[number].share for number in self._left], np.float64)
        edges = (np.minimum(np.cumsum(shares / shares.sum())[:-1], 1 - 2.0**-53) * 2.0**64).astype(np.uint64)
        chosen: Numbers = np.array(self._left, np.int64)[np.searchsorted(edges, weyl(self._cursor, count), side="right")]
        return chosen


class _Stream:
    """The samples of a source that fit, from a position on, over all allowed epochs."""

    def __init__(self, source: MixedSource, position: int, budgets: Numbers):
        self.share = source.share
        self._source, self._position, self._budgets = source, position, budgets
        self._end = math.floor(source.max_epochs * len(source.usable)) if source.max_epochs else None
        self._ready = self._look_up(0)

    def ready(self, count: int) -> int:
        """Looks up the next `count` samples. Returns their number, which is smaller if the source is used up."""
        lookup = max(_CHUNK, count)
        while len(self._ready.samples) < count and (self._end is None or self._position < self._end):
            self._ready = _join(self._ready, self._look_up(lookup))
            lookup = min(2 * lookup, _MAX_LOOKUP)  # in case only few samples of the source fit
        return min(count, len(self._ready.samples))

    def take(self, count: int) -> Samples:
        """Removes and returns the next `count` samples; `ready` must have been called for them."""
        taken, self._ready = (Samples(*(column[part] for column in self._ready)) for part in (slice(count), slice(count, None)))
        return taken

    def _look_up(self, count: int) -> Samples:
        source, size = self._source, len(self._source.usable)
        stop = self._position + count if self._end is None else max(self._position, min(self._position + count, self._end))
        at = np.arange(self._position, stop)
        self._position = stop
        epochs = at // size
        seeds = scramble(epochs.astype(np.uint64) + np.uint64(source.seed))
        samples = source.usable[permute(at % size, size, seeds)]
        lengths = source.lengths[samples]
        keep = (lengths <= self._budgets).all(axis=1)
        return Samples(samples[keep], epochs[keep], at[keep] + 1, lengths[keep])


def _empty(count: int) -> Samples:
    return Samples(np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros((count, 4), np.int64))


def _join(first: Samples, second: Samples) -> Samples:
    return Samples(*(np.concatenate(columns) for columns in zip(first, second, strict=True)))
