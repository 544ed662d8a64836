"""Budgets of a phase that leave rows empty, and the ones that would do: from lengths alone, before the phase begins."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.planning.blocks import Lengths, pack_block

DrawsWithin = Callable[[Sequence[int]], Lengths]

_ROWS = 192  # of a trial, fewer where these take more than _SAMPLES: up to 0.2 s
_SAMPLES = 20_000
_WORTH = 0.01  # of a row's tokens: what a budget must cost before it is named
_SPARE = 1.05  # of what all samples need on the average: with less, rows cannot be full of tokens
_DRAWS = 8192  # that the average is taken of
_CLOSE = 0.005  # of a row's tokens: how near to the fill without any limit a better budget must come


class Advice(NamedTuple):
    """What other budgets would do for a phase.

    Attributes:
      fill: share of the rows' tokens that is filled, as a trial of up to _ROWS rows gives it.
      better_fill: the same with `better`.
      budgets, better: [4] of a row as they are, and with the smallest round values that suffice: tokens, visual tokens, images, segments.
    """

    fill: float
    better_fill: float
    budgets: tuple[int, ...]
    better: tuple[int, ...]


def advise(draws: DrawsWithin, budgets: Sequence[int]) -> Advice | None:
    """Returns better budgets where visual tokens, images or segments run out before tokens do; else None.

    Args:
      draws: the phase's draws from its beginning that are within such budgets: with larger ones, longer samples come.
      budgets: [4] of a row: tokens, visual tokens, images, segments.
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
    """Packs a few rows: the most that one takes of each budget, and the share of tokens that is filled."""
    within = draws(budgets)
    packed, taken = pack_block(within, budgets, rows)
    lengths = within.lengths(taken)
    used = np.array([lengths[row].sum(axis=0) for row in packed])
    return used.max(axis=0).tolist(), float(used[:, 0].mean()) / budgets[0]


def _round_values(above: int, last: int) -> list[int]:
    """Multiples of an eighth of a power of two, from the first above a number to the first that is not below another."""
    values: list[int] = []
    value = above
    while not values or value < last:
        step = max(1, (1 << (value.bit_length() - 1)) // 8)
        value = value // step * step + step
        values.append(value)
    return values
