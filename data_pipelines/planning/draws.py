"""The samples of a phase in the order in which they are drawn: source by the mixture's weights, then that source's next sample that fits."""

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

_CHUNK = 1024  # samples drawn at a time, and the fewest that are looked up in a source
_MAX_LOOKUP = 1 << 18


class Draw(NamedTuple):
    """One sample in a row: the source's number, the sample's number in it, and the epoch it is read in."""

    source: int
    sample: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class MixedSource:
    """A source as a phase draws from it. At least one of its usable samples fits the budgets.

    Attributes:
      name: of the source.
      usable: [u] int64: the samples that can be read.
      lengths: [n, 4] int64: tokens, visual tokens, images, segments.
      seed: of the order of its samples.
      share: its weight in the mixture.
      max_epochs: how often its samples are read at most over the run; 0: no limit.
    """

    name: str
    usable: Lookup
    lengths: Lookup
    seed: int
    share: float
    max_epochs: float = 0.0


class Samples(NamedTuple):
    """Samples of one source that fit: numbers, epochs, the source's position after each, and [k, 4] lengths."""

    samples: Numbers
    epochs: Numbers
    after: Numbers
    lengths: Numbers


class Draws:
    """The draws of a phase from a cursor on, made as they are asked for. The mixture's shares hold over any stretch of them.

    A source that was read as often as its max_epochs allow gives nothing more: from there on the others share its part by their weights.
    What is drawn does not depend on how many draws are asked for at a time.

    Args:
      sources: by number.
      cursor: draws made before.
      positions: samples taken from each source of the run before.
      budgets: [4]: samples that pass one are passed over.
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
        self._left = list(range(len(self._streams)))  # that are not used up
        self._source = np.zeros(0, np.int64)
        self._drawn = _empty(0)

    def lengths(self, count: int) -> Numbers:
        """Returns the [m, 4] lengths of what is drawn: at least the first `count`, fewer where all sources are used up."""
        while len(self._source) < count and self._left:
            self._draw(max(_CHUNK, count - len(self._source)))
        return self._drawn.lengths

    def first(self, count: int) -> list[Draw]:
        """Returns the first `count` draws, of those that `lengths` gave."""
        columns = (self._source, self._drawn.samples, self._drawn.epochs)
        return list(map(Draw, *(column[:count].tolist() for column in columns)))

    def positions(self, taken: int, before: Sequence[int]) -> tuple[int, ...]:
        """Returns the sources' positions after the first `taken` draws, from those before the first."""
        positions = np.array(before, np.int64)
        np.maximum.at(positions, self._source[:taken], self._drawn.after[:taken])
        return tuple(positions.tolist())

    def _draw(self, count: int) -> None:
        """Makes `count` more draws, or those up to where a source is used up."""
        choices = self._choose(count)
        drawn = _empty(count)
        complete = count  # draws before the first for which a source has nothing more
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
        """[count] which stream each of the next draws comes from, by the shares of those that are left."""
        shares = np.array([self._streams[number].share for number in self._left], np.float64)
        edges = (np.minimum(np.cumsum(shares / shares.sum())[:-1], 1 - 2.0**-53) * 2.0**64).astype(np.uint64)
        chosen: Numbers = np.array(self._left, np.int64)[np.searchsorted(edges, weyl(self._cursor, count), side="right")]
        return chosen


class _Stream:
    """The samples of a source that fit, from a position on, over all epochs that it may be read."""

    def __init__(self, source: MixedSource, position: int, budgets: Numbers):
        self.share = source.share
        self._source, self._position, self._budgets = source, position, budgets
        self._end = math.floor(source.max_epochs * len(source.usable)) if source.max_epochs else None
        self._ready = self._look_up(0)

    def ready(self, count: int) -> int:
        """How many of the next `count` samples there are: fewer where the source is used up."""
        lookup = max(_CHUNK, count)
        while len(self._ready.samples) < count and (self._end is None or self._position < self._end):
            self._ready = _join(self._ready, self._look_up(lookup))
            lookup = min(2 * lookup, _MAX_LOOKUP)  # few samples of the source fit
        return min(count, len(self._ready.samples))

    def take(self, count: int) -> Samples:
        """The next `count` samples, of those that are `ready`."""
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
