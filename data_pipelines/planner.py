"""Which samples make up row g of a phase: decided from lengths alone, before any file is opened.

Rows are planned in blocks. A block draws samples (source by the mixture's weights, then the next sample of that source
that fits the phase) and places each in the fullest open row that still has room for it. The draws of a block depend on
the state at its start and on nothing else, so any process resumes anywhere without replaying what came before.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from data_pipelines.randomness import permute, scramble, stable_seed, weyl
from data_pipelines.schema import DataError, PhaseSettings

BLOCK_ROWS = 2048
OPEN_ROWS = 64
_DRAWS = 1024  # samples looked up at a time


class Lengths(Protocol):
    """What the planner needs of one source: `LengthIndex` has it."""

    name: str
    usable: np.ndarray  # [u] int64: the samples that can be read, ascending

    def lengths(self, phase: PhaseSettings, seed: int) -> np.ndarray: ...  # [n, 4] int64


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
    usable: np.ndarray  # [u]
    lengths: np.ndarray  # [n, 4]
    fits: np.ndarray  # [n] bool
    seed: int


class _Start(NamedTuple):
    cursor: int
    positions: tuple[int, ...]


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
      too_long: for each source of the mixture, by name, the numbers of the samples that pass a budget of the phase.

    Raises:
      DataError: the mixture is empty, names an unknown source, has a weight that is not positive, or a source of which
        no sample fits; or the state belongs to another phase or set of sources.
    """

    def __init__(
        self, number: int, phase: PhaseSettings, indexes: Sequence[Lengths], seed: int, state: InputState, block_rows: int = BLOCK_ROWS
    ):
        if state.phase != number or len(state.positions) != len(indexes) or state.row >= phase.rows:
            raise DataError(f"{state} is not a state in phase {number} ({phase.name!r}, {phase.rows} rows) of {len(indexes)} sources")
        self.number, self.phase, self.seed, self.block_rows = number, phase, seed, block_rows
        self.too_long: dict[str, np.ndarray] = {}
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

    def _open(self, index: Lengths) -> _Source:
        lengths = index.lengths(self.phase, self.seed)
        over = lengths > budgets(self.phase)
        fits = ~over.any(axis=1)
        if not fits[index.usable].any():
            names = ("context", "visual_tokens", "images", "segments")
            counts = ", ".join(f"{count} pass {name}" for name, count in zip(names, over[index.usable].sum(axis=0), strict=True))
            raise DataError(
                f"no sample of source {index.name!r} fits phase {self.phase.name!r} ({counts}, of {len(index.usable)} usable): "
                "raise its budgets or take the source out of its mixture"
            )
        self.too_long[index.name] = index.usable[~fits[index.usable]]
        return _Source(index.name, index.usable, lengths, fits, stable_seed("order", self.seed, index.name))

    def lengths(self, draw: Draw) -> np.ndarray:
        """Returns the [4] lengths that a drawn sample was planned with."""
        return self._sources[draw.source].lengths[draw.sample]

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
        """Best fit over at most OPEN_ROWS open rows, until a sample has no room and `wanted` rows are begun."""
        streams = {s: _stream(source, start.positions[s]) for s, source in self._sources.items()}
        positions = list(start.positions)
        _, visual_budget, images_budget, segments_budget = budgets(self.phase).tolist()
        rows: list[list[Draw]] = []
        rest: list[tuple[int, int, int]] = []  # of each row: visual tokens, images, segments still free
        roomy: list[tuple[int, int]] = []  # open rows, ascending: tokens still free, row
        for made, s in enumerate(self._choices(start.cursor)):
            sample, epoch, position, tokens, visual, images, segments = next(streams[s])
            for at in range(bisect.bisect_left(roomy, (tokens, 0)), len(roomy)):
                free, row = roomy[at]
                if visual <= rest[row][0] and images <= rest[row][1] and segments <= rest[row][2]:
                    del roomy[at]
                    break
            else:
                if len(rows) == wanted:
                    return rows, _Start(start.cursor + made, tuple(positions))
                if len(roomy) == OPEN_ROWS:
                    del roomy[0]
                free, row = self.phase.context, len(rows)
                rows.append([])
                rest.append((visual_budget, images_budget, segments_budget))
            rows[row].append(Draw(s, sample, epoch))
            left = rest[row]
            rest[row] = (left[0] - visual, left[1] - images, left[2] - segments)
            bisect.insort(roomy, (free - tokens, row))
            positions[s] = position
        raise AssertionError("the draws are endless")

    def _choices(self, cursor: int) -> Iterator[int]:
        """Yields the source of each draw from `cursor` on: the mixture's shares hold over any stretch of draws."""
        while True:
            yield from (self._numbers[i] for i in np.searchsorted(self._edges, weyl(cursor, _DRAWS), side="right").tolist())
            cursor += _DRAWS


def _stream(source: _Source, position: int) -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """Yields the fitting samples from a position on: sample, epoch, the position after it, then its four lengths."""
    size = len(source.usable)
    while True:
        at = np.arange(position, position + _DRAWS)
        epochs = at // size
        seeds = scramble(epochs.astype(np.uint64) + np.uint64(source.seed))
        samples = source.usable[permute(at % size, size, seeds)]
        keep = source.fits[samples]
        columns = (samples[keep], epochs[keep], at[keep] + 1, *source.lengths[samples[keep]].T)
        yield from zip(*(column.tolist() for column in columns), strict=True)
        position += _DRAWS
