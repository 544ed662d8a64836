"""Packs draws into the rows of one block, within every budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data_pipelines.planning.packing import OpenRows, fill_rows

Numbers = npt.NDArray[np.int64]

_HEAD = 0.995  # share of the empty rows' budgets that is packed together
_FEW = 4  # number of last rows, to which draws are added one by one
_FULL = 0.98  # share of a budget; if one is filled to this share, no second packing is tried
_CHUNK = 256


class Lengths(Protocol):
    """The interface for lengths of draws; `Draws` implements it."""

    def lengths(self, count: int) -> Numbers: ...  # [m, 4], at least the first `count`; fewer if the draws are used up


def pack_block(draws: Lengths, budget: Sequence[int], wanted: int) -> tuple[list[list[int]], int]:
    """Packs draws into rows.

    Draws are packed together. If that fills no budget, they are also packed in the order drawn, and the packing that takes more draws is kept
    (packing in order can be better if visual tokens are scarce). A block takes a contiguous run of draws, so a state need not list left-over
    ones.

    Args:
      draws: draws, each within the budget. If they are used up, fewer rows than wanted may be filled.
      budget: [4] budget of a row.
      wanted: number of rows.

    Returns:
      Indices of the draws in each row, and the number of draws in all rows.
    """
    rows, taken = _together(draws, budget, wanted)
    filled = draws.lengths(taken)[:taken].sum(axis=0) / np.maximum(wanted * np.array(budget), 1)
    if filled.max() < _FULL:
        return max((rows, taken), _in_order(draws, [], 0, budget, wanted), key=lambda packed: packed[1])
    return rows, taken


def _together(draws: Lengths, budget: Sequence[int], wanted: int) -> tuple[list[list[int]], int]:
    """Packs enough draws to nearly fill all rows, then repeats for rows still empty; the last few rows and gaps take draws one by one."""
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
    """Returns the number of draws from `first` on whose total is within `most` [4]."""
    count = _CHUNK
    while True:
        within = (np.cumsum(draws.lengths(first + count)[first:], axis=0) <= most).all(axis=1)
        if len(within) < count or not within.all():
            return int(within.sum())
        count = 2 * len(within)


def _in_order(draws: Lengths, rows: list[list[int]], taken: int, budget: Sequence[int], wanted: int) -> tuple[list[list[int]], int]:
    """Adds the draws after the first `taken` one by one, until one does not fit into `wanted` rows."""
    packing = OpenRows(rows, draws.lengths(taken), budget, wanted)
    while following := draws.lengths(taken + _CHUNK)[taken:].tolist():
        for needs in following:
            if not packing.place(taken, needs):
                return packing.rows, taken
            taken += 1
    return packing.rows, taken
