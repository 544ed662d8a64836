"""Which samples make up row g of a phase: decided from lengths alone, before any file is opened.

Rows are planned in blocks. A block draws samples (source by the mixture's weights, then the next sample of that source
that fits the phase) and packs them together. The draws of a block depend on the state at its start and
on nothing else, so any process resumes anywhere without replaying what came before.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.planning.packing import OpenRows, fill_rows
from data_pipelines.planning.too_long import NEVER_FITS, Lookup, SourceLengths, TooLong, find_too_long
from data_pipelines.randomness import permute, scramble, stable_seed, weyl
from data_pipelines.schema import DataError, PhaseSettings

BLOCK_ROWS = 1024
BUDGETS = ("context", "visual_tokens", "images", "segments")  # of a row, by their names in a phase
_HEAD = 0.99  # of a block's budgets: how much of it is packed together
_DRAWS = 1024  # samples looked up at a time


class Draw(NamedTuple):
    """One sample in a row: the source's number, the sample's number in it, and the epoch it is read in."""

    source: int
    sample: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class InputState:
    """Where the input stands. Enough to go on from, on any number of processes.

    Attributes:
      phase: number of the phase; the number of phases when all rows are delivered.
      row: next row of the phase.
      cursor: draws made in this phase before the block that holds `row`.
      positions: samples taken from each source, over all epochs and phases, before that block.
    """

    phase: int
    row: int
    cursor: int
    positions: tuple[int, ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> InputState:
        """Raises DataError when the text is not a state."""
        try:
            fields = json.loads(text)
            state = cls(fields["phase"], fields["row"], fields["cursor"], tuple(fields["positions"]))
            numbers = (state.phase, state.row, state.cursor, *state.positions)
            valid = len(fields) == 4 and all(type(number) is int and number >= 0 for number in numbers)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"not a state of the input: {text[:200]!r} ({error})") from error
        if not valid:
            raise DataError(f"not a state of the input: {text[:200]!r}: expected phase, row, cursor and positions, not negative")
        return state


@dataclasses.dataclass(frozen=True)
class _Source:
    name: str
    usable: Lookup  # [u]
    lengths: Lookup  # [n, 4]
    budget: np.ndarray  # [4]
    seed: int


class _Drawn(NamedTuple):
    """A draw, the source's position after it, and its four lengths."""

    draw: Draw
    position: int
    lengths: list[int]


class _Start(NamedTuple):
    cursor: int
    positions: tuple[int, ...]


def exceeded(lengths: Sequence[int], phase: PhaseSettings) -> list[str]:
    """The budgets that a sample of these four lengths passes, as "context 300 of 128"."""
    if NEVER_FITS in lengths:
        return ["the phase takes no samples of this kind"]
    each = zip(BUDGETS, lengths, budgets(phase).tolist(), strict=True)
    return [f"{name} {length} of {budget}" for name, length, budget in each if length > budget]


def budgets(phase: PhaseSettings) -> np.ndarray:
    """Returns what a row may hold, in the columns of `Lengths.lengths`: tokens, visual tokens, images, segments."""
    return np.array([phase.context, phase.visual_tokens, phase.images, phase.segments], np.int64)


class Planner:
    """The rows of one phase.

    Args:
      number: the phase's number.
      phase: its settings.
      indexes: lengths of every source, in the order of the configuration; sources outside the mixture keep their position.
      seed: of the run: the order of samples in an epoch and of rows in a block.
      state: a state in this phase to plan from.
      block_rows: rows planned together. Part of the order of the data: the same for the whole run.

    Attributes:
      too_long: for each source of the mixture, by name, the samples that pass a budget of the phase: found by a look at all samples,
        unless it is given.

    Raises:
      DataError: the mixture is empty, names an unknown source, has a weight that is not positive, or a source of which
        no sample fits; or the state belongs to another phase or set of sources.
    """

    def __init__(
        self,
        number: int,
        phase: PhaseSettings,
        indexes: Sequence[SourceLengths],
        seed: int,
        state: InputState,
        block_rows: int = BLOCK_ROWS,
        too_long: Mapping[str, TooLong] | None = None,
    ):
        if state.phase != number or len(state.positions) != len(indexes) or state.row >= phase.rows:
            raise DataError(f"{state} is not a state in phase {number} ({phase.name!r}, {phase.rows} rows) of {len(indexes)} sources")
        self.number, self.phase, self.seed, self.block_rows = number, phase, seed, block_rows
        self.too_long = dict(too_long or {})
        self._check_mixture([index.name for index in indexes])
        self._sources = {s: self._open(index) for s, index in enumerate(indexes) if index.name in phase.mixture}
        self._numbers = list(self._sources)
        shares = np.array([phase.mixture[source.name] for source in self._sources.values()], np.float64)
        self._edges = (np.minimum(np.cumsum(shares / shares.sum())[:-1], 1 - 2.0**-53) * 2.0**64).astype(np.uint64)
        self._starts = {state.row // block_rows: _Start(state.cursor, state.positions)}
        self._rows: dict[int, list[list[Draw]]] = {}
        self._lock = threading.Lock()  # decoding threads share the planner

    def _check_mixture(self, names: list[str]) -> None:
        if not self.phase.mixture:
            raise DataError(f"phase {self.phase.name!r} has an empty mixture: name at least one of {names}")
        for name, weight in self.phase.mixture.items():
            if name not in names:
                raise DataError(f"the mixture of phase {self.phase.name!r} names the source {name!r}; the sources are {names}")
            if not (0 < weight < float("inf")):
                raise DataError(f"the mixture of phase {self.phase.name!r} gives {name!r} the weight {weight}: it must be positive")

    def _open(self, index: SourceLengths) -> _Source:
        lengths, budget = index.lengths(self.phase, self.seed), budgets(self.phase)
        if (found := self.too_long.get(index.name)) is None:
            self.too_long[index.name] = found = find_too_long(lengths, index.usable, budget)
        if found.total == found.usable:
            counts = ", ".join(f"{count} pass {name}" for name, count in zip(BUDGETS, found.passed + found.not_taken, strict=True))
            raise DataError(
                f"no sample of source {index.name!r} fits phase {self.phase.name!r} ({counts}, of {found.usable} usable): "
                "raise its budgets or take the source out of its mixture"
            )
        return _Source(index.name, index.usable, lengths, budget, stable_seed("order", self.seed, index.name))

    def lengths(self, draws: Sequence[Draw]) -> np.ndarray:
        """Returns the [k, 4] lengths that drawn samples were planned with."""
        sources, samples = (np.array([draw[column] for draw in draws], np.int64) for column in range(2))
        result = np.zeros((len(draws), 4), np.int64)
        for number, source in self._sources.items():
            if len(places := np.flatnonzero(sources == number)):
                result[places] = source.lengths[samples[places]]
        return result

    def row(self, row: int) -> list[Draw]:
        """Returns the samples of a row, in order. Raises DataError for a row before the first planned block."""
        block, offset = divmod(row, self.block_rows)
        with self._lock:
            return self._block(block)[offset]

    def state(self, row: int) -> InputState:
        """Returns the state from which `row` is the next; after the phase's last row, the start of the next phase."""
        block = row // self.block_rows
        with self._lock:
            if row == self.phase.rows:
                last = (row - 1) // self.block_rows
                self._block(last)
                return InputState(self.number + 1, 0, 0, self._starts[last + 1].positions)
            if block not in self._starts:
                self._block(block - 1)
            return InputState(self.number, row, *self._starts[block])

    def _block(self, block: int) -> list[list[Draw]]:
        if block in self._rows:
            return self._rows[block]
        known = [number for number in self._starts if number <= block]
        if not known or block * self.block_rows >= self.phase.rows:
            raise DataError(f"block {block} of phase {self.phase.name!r} cannot be planned from the blocks {sorted(self._starts)}")
        for number in range(max(known), block + 1):
            rows = min(self.block_rows, self.phase.rows - number * self.block_rows)
            planned, self._starts[number + 1] = self._plan(self._starts[number], rows)
            seeds = np.full(rows, stable_seed("rows", self.seed, self.number, number), np.uint64)
            order = permute(np.arange(rows), rows, seeds)
            self._rows[number] = [planned[i] for i in order]
            for old in [old for old in self._rows if old < number - 1]:
                del self._rows[old]
        return self._rows[block]

    def _plan(self, start: _Start, wanted: int) -> tuple[list[list[Draw]], _Start]:
        """Packs a block in two ways and keeps the one that takes more samples: all one by one in the order drawn, until one has no
        room (better where visual tokens are short); and nearly all together, the rest one by one (better where tokens are).

        So a block takes an unbroken run of draws, and the state need not name any that were left over.
        """
        budget = budgets(self.phase)
        draws = self._draws(start)
        drawn: list[_Drawn] = []

        def one_by_one(rows: list[list[int]], number: int) -> tuple[list[list[int]], int]:
            packing = OpenRows(rows, [draw.lengths for draw in drawn[:number]], budget.tolist(), wanted)
            while True:
                if number == len(drawn):
                    drawn.append(next(draws))
                if not packing.place(number, drawn[number].lengths):
                    return packing.rows, number
                number += 1

        rows, taken = one_by_one([], 0)
        drawn += itertools.islice(draws, taken // 4)  # enough for full rows unless a fifth of them was left empty
        lengths = [draw.lengths for draw in drawn]
        sums = np.cumsum(lengths, axis=0)
        head = int((sums <= _HEAD * wanted * budget).all(axis=1).sum())
        while head > taken:
            together, placed = fill_rows(lengths[:head], budget.tolist(), wanted)
            if placed == head:
                rows, taken = max((rows, taken), one_by_one(together, head), key=lambda packed: packed[1])
                break
            head = min(head * 99 // 100, (head + placed) // 2)
        positions = list(start.positions)
        for draw in drawn[:taken]:
            positions[draw.draw.source] = draw.position
        return [[drawn[i].draw for i in row] for row in rows], _Start(start.cursor + taken, tuple(positions))

    def _draws(self, start: _Start) -> Iterator[_Drawn]:
        """Yields the draws from a block's start on, without end. The mixture's shares hold over any stretch of them."""
        streams = {s: _stream(s, source, start.positions[s]) for s, source in self._sources.items()}
        cursor = start.cursor
        while True:
            for choice in np.searchsorted(self._edges, weyl(cursor, _DRAWS), side="right").tolist():
                yield next(streams[self._numbers[choice]])
            cursor += _DRAWS


def _stream(number: int, source: _Source, position: int) -> Iterator[_Drawn]:
    """Yields the samples of a source that fit, from a position on."""
    size = len(source.usable)
    while True:
        at = np.arange(position, position + _DRAWS)
        epochs = at // size
        seeds = scramble(epochs.astype(np.uint64) + np.uint64(source.seed))
        samples = source.usable[permute(at % size, size, seeds)]
        of_samples = source.lengths[samples]
        keep = (of_samples <= source.budget).all(axis=1)
        columns = (samples[keep].tolist(), epochs[keep].tolist(), (at[keep] + 1).tolist(), of_samples[keep].tolist())
        for sample, epoch, after, lengths in zip(*columns, strict=True):
            yield _Drawn(Draw(number, sample, epoch), after, lengths)
        position += _DRAWS
