"""Rows of one block: as many draws as they hold, packed within every budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data_pipelines.planning.packing import OpenRows, fill_rows

Numbers = npt.NDArray[np.int64]

_HEAD = 0.995  # of the budgets of empty rows: how much is packed together
_FEW = 4  # rows that are filled one by one
_FULL = 0.98  # of a budget: what fills one so far needs no second try
_CHUNK = 256


class Lengths(Protocol):
    """The lengths of draws: `Draws` has it."""

    def lengths(self, count: int) -> Numbers: ...  # [m, 4], at least the first `count`; fewer where no more are to come


def pack_block(draws: Lengths, budget: Sequence[int], wanted: int) -> tuple[list[list[int]], int]:
    """Packs draws together; where that fills no budget, in the order drawn too, and keeps what takes more (packing in order can be better where
    visual tokens are short). A block takes an unbroken run of draws: a state need not name any that were left over.

    Args:
      draws: each within the budget. Where they end, fewer rows than wanted may be filled.
      budget: [4] of a row.
      wanted: rows.

    Returns:
      The numbers of the draws in each row, and how many draws the rows hold.
    """
    rows, taken = _together(draws, budget, wanted)
    filled = draws.lengths(taken)[:taken].sum(axis=0) / np.maximum(wanted * np.array(budget), 1)
    if filled.max() < _FULL:
        return max((rows, taken), _in_order(draws, [], 0, budget, wanted), key=lambda packed: packed[1])
    return rows, taken


def _together(draws: Lengths, budget: Sequence[int], wanted: int) -> tuple[list[list[int]], int]:
    """Packs what nearly fills all rows, then what nearly fills those that stayed empty; the last few rows and gaps take draws one by one."""
    rows: list[list[int]] = []
    taken = 0
    while (empty := wanted - len(rows)) > _FEW and (head := _head(draws, taken, _HEAD * empty * np.array(budget))):
        lengths = draws.lengths(taken + head)[taken : taken + head]
        packed, placed = fill_rows(lengths, budget, empty)
        while placed < head:
            head = min(head * 99 // 100, (head + placed) // 2)
            packed, placed = fill_rows(lengths[:head], budget, empty)
        rows += [[taken + sample for sample in row] for row in packed]
        taken += head
    return _in_order(draws, rows, taken, budget, wanted)


def _head(draws: Lengths, first: int, most: npt.NDArray[np.float64]) -> int:
    """How many draws from `first` on are within `most` [4] together."""
    count = _CHUNK
    while True:
        within = (np.cumsum(draws.lengths(first + count)[first:], axis=0) <= most).all(axis=1)
        if len(within) < count or not within.all():
            return int(within.sum())
        count = 2 * len(within)


def _in_order(draws: Lengths, rows: list[list[int]], taken: int, budget: Sequence[int], wanted: int) -> tuple[list[list[int]], int]:
    """Adds the draws after the first `taken` one by one, until one has no room in `wanted` rows."""
    packing = OpenRows(rows, draws.lengths(taken), budget, wanted)
    while following := draws.lengths(taken + _CHUNK)[taken:].tolist():
        for needs in following:
            if not packing.place(taken, needs):
                return packing.rows, taken
            taken += 1
    return packing.rows, taken
