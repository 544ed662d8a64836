"""Orders the rows of a block so that all devices of a step get about the same number of attended pairs.

A step takes as long as its busiest data shard. Rows are grouped into steps by their attended pairs, and the steps are in random order. Within a
step, every aligned run of 2, 4, 8 ... rows that divides the step has nearly the mean number of pairs. So the order does not depend on the mesh,
which may change during a run.

Grouping determines which rows share an update, and the loss divides by an update's label weights. If rows with many pairs had few samples, these
samples would weigh more than in a random order. `fill_rows` gives all rows nearly the same number of samples; benchmarks/packing.py measures
the weight of a sample by its length and source, relative to a random order.
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

    Each of n tokens attends to itself and all earlier tokens: n (n + 1) / 2 pairs. An image of s tokens adds s (s - 1) / 2. The estimate is exact
    for one image and for images of one size, such as the frames of a clip; else it is too small by half the number of images times the
    variance of their sizes.
    """
    tokens, visual, images = np.asarray(lengths, np.int64).reshape(-1, 4).T[:3]
    return tokens * (tokens + 1) // 2 + visual * (visual - images) // np.maximum(2 * images, 1)


def order_rows(pairs: npt.ArrayLike, rows_per_step: int, seed: int) -> Numbers:
    """Returns the rows [n] of a block in the order in which they are delivered, a permutation.

    Args:
      pairs: [n] int64, above 0: attended pairs of each row.
      rows_per_step: number of rows of a step, a divisor of n.
      seed: seed for the order of steps, and for the grouping of rows with about the same pairs.
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
    """Returns ascending integers up to `largest`, each larger than the previous one by about 1/_BAND."""
    grown = itertools.accumulate(itertools.repeat(_BAND), lambda edge, _: edge + edge // _BAND)
    return np.array([*itertools.takewhile(lambda edge: edge < largest, grown), largest], np.int64)


def _spread(step: Numbers, pairs: Numbers) -> Numbers:
    """Orders the rows of a step: aligned runs of 2, 4, 8 ... rows have about equally many pairs, for each length that divides the step.

    Runs are joined in pairs, the largest with the smallest, the second largest with the second smallest, until their number is odd.
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
