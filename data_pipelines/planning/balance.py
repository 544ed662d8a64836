"""The order of a block's rows: every device of a step gets about as many attended pairs as the others.

A step ends when its busiest data shard does. Rows are grouped into steps by their attended pairs, steps come in random order, and in a step
any run of 2, 4, 8 ... rows that divides it has nearly the mean pairs: so the order need not know the mesh, which may change in a run.

Grouping decides which rows share an update, and the loss divides by an update's label weights: if rows with many pairs held few samples, these
would weigh more than in a random order. `fill_rows` gives all rows nearly the same number of samples; benchmarks/packing.py measures
what a sample weighs by its length and source, relative to a random order.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from data_pipelines.randomness import permute

Numbers = npt.NDArray[np.int64]

_BAND = 50  # rows within 1/50 of each other's pairs are grouped at random


def document_pairs(lengths: npt.ArrayLike) -> Numbers:
    """Estimates the attended pairs [n] of documents from their lengths [n, 4]: tokens, visual tokens, images, segments.

    Of n tokens every one sees those that are not later: n (n + 1) / 2 pairs. An image of s tokens adds s (s - 1) / 2. Exact for one image and
    for images of one size, as the frames of a clip; else too small, by half the number of images times the variance of their sizes.
    """
    tokens, visual, images = np.asarray(lengths, np.int64).reshape(-1, 4).T[:3]
    return tokens * (tokens + 1) // 2 + visual * (visual - images) // np.maximum(2 * images, 1)


def order_rows(pairs: npt.ArrayLike, rows_per_step: int, seed: int) -> Numbers:
    """Returns the rows [n] of a block in the order in which they are delivered, a permutation.

    Args:
      pairs: [n] int64, above 0: attended pairs of each row.
      rows_per_step: divides n.
      seed: of the order of steps, and of rows that have about the same pairs.
    """
    pairs = np.asarray(pairs, np.int64)
    shuffled = _shuffle(len(pairs), seed)
    band = np.searchsorted(_edges(int(pairs.max())), pairs[shuffled])
    steps = shuffled[np.argsort(band, kind="stable")].reshape(-1, rows_per_step)
    steps = np.array([_spread(step, pairs[step]) for step in steps])
    return steps[_shuffle(len(steps), seed + 1)].reshape(-1)


def _shuffle(size: int, seed: int) -> Numbers:
    return permute(np.arange(size), size, np.full(size, seed, np.uint64))


def _edges(largest: int) -> Numbers:
    """Ascending integers up to `largest`, each about 1/_BAND above the one before."""
    grown = itertools.accumulate(itertools.repeat(_BAND), lambda edge, _: edge + edge // _BAND)
    return np.array([*itertools.takewhile(lambda edge: edge < largest, grown), largest], np.int64)


def _spread(step: Numbers, pairs: Numbers) -> Numbers:
    """The rows of a step so ordered that any aligned run of 2, 4, 8 ... of them, where that divides the step, has about as many pairs as the next.

    The runs are joined two by two, the largest with the smallest, the second largest with the second smallest, until their number is odd.
    """
    runs, sums = step[:, None], pairs
    while True:
        order = np.argsort(-sums, kind="stable")
        runs, sums = runs[order], sums[order]
        half, odd = divmod(len(runs), 2)
        if odd:
            return runs.reshape(-1)
        runs = np.concatenate([runs[:half], runs[: half - 1 : -1]], axis=1)
        sums = sums[:half] + sums[: half - 1 : -1]
