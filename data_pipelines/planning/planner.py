"""Decides which samples form each row of a phase, from lengths alone, before any file is opened.

Rows are planned in blocks of whole steps. A block draws samples (a source by the mixture's weights, then the next sample of that source
that fits the phase), packs them together and groups the rows into steps. The draws of a block depend only on the state at its start, so
any process can resume at any block without planning the earlier ones.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.planning.advice import Advice, advise
from data_pipelines.planning.balance import document_pairs, order_rows
from data_pipelines.planning.blocks import pack_block
from data_pipelines.planning.draws import Draw, Draws, MixedSource
from data_pipelines.planning.too_long import NEVER_FITS, SourceLengths, TooLong, find_too_long
from data_pipelines.randomness import stable_seed
from data_pipelines.schema import DataError, PhaseSettings

ORDER_VERSION = 3  # version of the order of the data; increase it if the same state may give other rows
BLOCK_ROWS = 1024
BLOCK_TOKENS = 1 << 26  # of the rows planned together: enough for full rows, and of short samples alone a few seconds' work
BUDGETS = ("context", "visual_tokens", "images", "segments")  # budgets of a row, by their names in a phase


@dataclasses.dataclass(frozen=True)
class InputState:
    """Position of the input pipeline. Sufficient to continue on any number of processes.

    Attributes:
      phase: index of the phase; equal to the number of phases after all rows are delivered.
      row: next row of the phase.
      cursor: number of draws made in this phase before the block that contains `row`.
      positions: number of samples taken from each source, over all epochs and phases, before that block.
    """

    phase: int
    row: int
    cursor: int
    positions: tuple[int, ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> InputState:
        """Parses a state. Raises DataError if the text is not one."""
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


class _Start(NamedTuple):
    cursor: int
    positions: tuple[int, ...]


def exceeded(lengths: Sequence[int], phase: PhaseSettings) -> list[str]:
    """Returns the budgets that a sample of these four lengths exceeds, as "context 300 of 128"."""
    if NEVER_FITS in lengths:
        return ["the phase takes no samples of this kind"]
    each = zip(BUDGETS, lengths, budgets(phase).tolist(), strict=True)
    return [f"{name} {length} of {budget}" for name, length, budget in each if length > budget]


def budgets(phase: PhaseSettings) -> np.ndarray:
    """Returns [4] the budgets of a row, in the order of the columns of `Lengths.lengths`: tokens, visual tokens, images, segments."""
    return np.array([phase.context, phase.visual_tokens, phase.images, phase.segments], np.int64)


def whole_steps(block_rows: int, phase: PhaseSettings) -> int:
    """Returns the number of rows planned together: the largest multiple of the phase's rows_per_step of at most `block_rows` rows and
    BLOCK_TOKENS tokens, at least one step."""
    most = min(block_rows, BLOCK_TOKENS // phase.context)
    return max(1, most // phase.rows_per_step) * phase.rows_per_step


def check_mixture(phase: PhaseSettings, names: Sequence[str]) -> None:
    """Raises DataError unless the mixture is not empty and each of its sources is in `names` and has a positive, finite weight."""
    if not phase.mixture:
        raise DataError(f"phase {phase.name!r} has an empty mixture: name at least one of {names}")
    for name, weight in phase.mixture.items():
        if name not in names:
            raise DataError(f"the mixture of phase {phase.name!r} names the source {name!r}; the sources are {names}")
        if not (0 < weight < float("inf")):
            raise DataError(f"the mixture of phase {phase.name!r} gives {name!r} the weight {weight}: it must be positive")


class Planner:
    """Plans the rows of one phase.

    Args:
      number: index of the phase.
      phase: settings of the phase.
      indexes: lengths of every source, in the order of the configuration; sources outside the mixture keep their position.
      seed: seed of the run, for the order of samples in an epoch and of rows in a block.
      state: state in this phase to plan from.
      block_rows: largest number of rows planned together (see whole_steps). The order of the data depends on it, so it must be the same for
        the whole run.
      too_long: samples that exceed a budget, if already known; otherwise all samples are examined.

    Attributes:
      too_long: samples that exceed a budget of the phase, by name of the source, for each source of the mixture.

    Raises:
      DataError: the mixture is empty, names an unknown source, has a weight that is not positive, or a source of which
        no sample fits; the rows are not whole steps; or the state belongs to another phase or set of sources.
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
        if phase.rows_per_step < 1 or phase.rows % phase.rows_per_step:
            raise DataError(f"the {phase.rows} rows of phase {phase.name!r} are not whole steps of {phase.rows_per_step} rows")
        self.number, self.phase, self.seed = number, phase, seed
        self.block_rows = block_rows = whole_steps(block_rows, phase)
        self.too_long = dict(too_long or {})
        check_mixture(phase, [index.name for index in indexes])
        self._count = len(indexes)
        self._sources = {s: self._open(index) for s, index in enumerate(indexes) if index.name in phase.mixture}
        self._starts = {state.row // block_rows: _Start(state.cursor, state.positions)}
        self._rows: dict[int, list[list[Draw]]] = {}
        self._lock = threading.Lock()  # decoding threads share the planner

    def _open(self, index: SourceLengths) -> MixedSource:
        lengths, budget = index.lengths(self.phase, self.seed), budgets(self.phase)
        if (found := self.too_long.get(index.name)) is None:
            self.too_long[index.name] = found = find_too_long(lengths, index.usable, budget)
        if found.usable == 0:
            raise DataError(f"`keep` of source {index.name!r} leaves none of its {found.filtered} usable samples: check its conditions")
        if found.total == found.usable:
            counts = ", ".join(f"{count} pass {name}" for name, count in zip(BUDGETS, found.passed + found.not_taken, strict=True))
            raise DataError(
                f"no sample of source {index.name!r} fits phase {self.phase.name!r} ({counts}, of {found.usable} usable): "
                "raise its budgets or take the source out of its mixture"
            )
        order = stable_seed("order", self.seed, index.name)
        return MixedSource(index.name, index.usable, lengths, order, self.phase.mixture[index.name], index.max_epochs)

    def lengths(self, draws: Sequence[Draw]) -> np.ndarray:
        """Returns the [k, 4] lengths with which drawn samples were planned."""
        sources, samples = (np.array([draw[column] for draw in draws], np.int64) for column in range(2))
        result = np.zeros((len(draws), 4), np.int64)
        for number, source in self._sources.items():
            if len(places := np.flatnonzero(sources == number)):
                result[places] = source.lengths[samples[places]]
        return result

    def advice(self) -> Advice | None:
        """Returns better budgets if the phase's budgets leave rows partly empty, from a trial with its first draws. Independent of the state."""
        positions = (0,) * self._count
        endless = {number: dataclasses.replace(source, max_epochs=0.0) for number, source in self._sources.items()}
        return advise(lambda other: Draws(endless, 0, positions, other), budgets(self.phase).tolist())

    def row(self, row: int) -> list[Draw]:
        """Returns the samples of a row, in order. Raises DataError for a row before the first planned block."""
        block, offset = divmod(row, self.block_rows)
        with self._lock:
            return self._block(block)[offset]

    def planned(self, row: int) -> tuple[list[Draw], np.ndarray]:
        """Returns the samples of a row, in order, and the [k, 4] lengths with which they were planned."""
        draws = self.row(row)
        return draws, self.lengths(draws)

    def state(self, row: int) -> InputState:
        """Returns the state whose next row is `row`; after the phase's last row, the start of the next phase."""
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
            self._rows[number], self._starts[number + 1] = self._plan(self._starts[number], rows)
            for old in [old for old in self._rows if old < number - 1]:
                del self._rows[old]
        return self._rows[block]

    def _plan(self, start: _Start, wanted: int) -> tuple[list[list[Draw]], _Start]:
        """Returns a block's rows in order, and the start of the next block."""
        budget = budgets(self.phase).tolist()
        draws = Draws(self._sources, start.cursor, start.positions, budget)
        rows, taken = pack_block(draws, budget, wanted)
        if len(rows) < wanted:
            names = ", ".join(source.name for source in self._sources.values())
            raise DataError(
                f"the data of phase {self.phase.name!r} is used up: all sources of its mixture ({names}) were read as often as their max_epochs "
                f"allow, {self.phase.rows:,} rows of {self.phase.context:,} tokens need more: raise max_epochs, add a source, or take fewer steps"
            )
        order = order_rows(_row_pairs(rows, draws.lengths(taken), self.phase.context), self.phase.rows_per_step, self._seed_of(start))
        drawn = draws.first(taken)
        planned = [[drawn[number] for number in rows[row]] for row in order.tolist()]
        return planned, _Start(start.cursor + taken, draws.positions(taken, start.positions))

    def _seed_of(self, start: _Start) -> int:
        return stable_seed("rows", self.seed, self.number, start.cursor)


def _row_pairs(rows: Sequence[Sequence[int]], lengths: np.ndarray, context: int) -> np.ndarray:
    """Returns the attended pairs [rows] of rows of samples with lengths [n, 4]; a padding token attends to itself only."""
    pairs = document_pairs(lengths)
    members, starts = np.concatenate(rows), np.cumsum([0, *map(len, rows)])[:-1]
    return context + np.add.reduceat(pairs[members] - lengths[members, 0], starts)
