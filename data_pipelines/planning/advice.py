"""Finds budgets of a phase that leave rows partly empty, and sufficient ones, from lengths alone, before the phase begins."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.planning.blocks import Lengths, pack_block

DrawsWithin = Callable[[Sequence[int]], Lengths]

_ROWS = 192  # rows of a trial, fewer if these contain more than _SAMPLES samples; a trial takes up to 0.2 s
_SAMPLES = 20_000
_WORTH = 0.01  # share of a row's tokens that a budget must leave empty before advice is given
_SPARE = 1.05  # least budget as a multiple of the average need of all samples; with less, rows cannot be full of tokens
_DRAWS = 8192  # draws over which the average is taken
_CLOSE = 0.005  # share of a row's tokens by which the fill with a better budget may be below the fill without limits


class Advice(NamedTuple):
    """Better budgets for a phase and their effect.

    Attributes:
      fill: share of the rows' tokens that is filled, from a trial of up to _ROWS rows.
      better_fill: the same share with the budgets `better`.
      budgets, better: [4] current budgets of a row, and the smallest sufficient round values: tokens, visual tokens, images, segments.
    """

    fill: float
    better_fill: float
    budgets: tuple[int, ...]
    better: tuple[int, ...]


def advise(draws: DrawsWithin, budgets: Sequence[int]) -> Advice | None:
    """Returns better budgets if visual tokens, images or segments run out before tokens do; else None.

    Args:
      draws: function from budgets to the phase's draws from its beginning that fit them; larger budgets admit longer samples.
      budgets: [4] budgets of a row: tokens, visual tokens, images, segments.
    """
    now = list(budgets)
    free = [now[0]] * 4  # no sample has more images or visual tokens than tokens
    average = draws(free).lengths(_DRAWS)[:_DRAWS].mean(axis=0).tolist()
    rows = min(_ROWS, max(1, int(_SAMPLES * average[0] / now[0])))
    _, fill = _trial(draws, now, rows)
    if fill >= 1 - _WORTH:
        return None
    used, most = _trial(draws, free, rows)
    if most < fill + _WORTH:
        return None
    better = list(now)
    for column in (1, 2, 3):

        def suffices(value: int, column: int = column) -> bool:
            return _trial(draws, [*free[:column], value, *free[column + 1 :]], rows)[1] >= most - _CLOSE

        least = int(_SPARE * now[0] * average[column] / average[0])
        if now[column] and (now[column] < least or not suffices(now[column])):
            values = _round_values(max(now[column], least), used[column])
            better[column] = values[bisect.bisect_left(values, True, hi=len(values) - 1, key=suffices)]
    return Advice(fill, _trial(draws, better, rows)[1], tuple(now), tuple(better)) if better != now else None


def _trial(draws: DrawsWithin, budgets: Sequence[int], rows: int) -> tuple[list[int], float]:
    """Packs a few rows. Returns the largest use of each budget by one row, and the share of tokens that is filled."""
    within = draws(budgets)
    packed, taken = pack_block(within, budgets, rows)
    lengths = within.lengths(taken)
    used = np.array([lengths[row].sum(axis=0) for row in packed])
    return used.max(axis=0).tolist(), float(used[:, 0].mean()) / budgets[0]


def _round_values(above: int, last: int) -> list[int]:
    """Returns multiples of an eighth of a power of two, from the first above `above` to the first that is at least `last`."""
    values: list[int] = []
    value = above
    while not values or value < last:
        step = max(1, (1 << (value.bit_length() - 1)) // 8)
        value = value // step * step + step
        values.append(value)
    return values
