"""Finds the samples of a source that do not fit a row of a phase: counts all of them and lists a few."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from data_pipelines.schema import PhaseSettings

NEVER_FITS = np.iinfo(np.int32).max  # length of a sample of a kind that a phase does not take
FILTERED = NEVER_FITS - 1  # length of a sample that its source's `keep` excludes
NAMED = 1000  # largest number of samples of a source and phase that are listed
_BLOCK = 1 << 15  # samples examined together, so that their columns fit into a core's cache

Numbers = npt.NDArray[np.int64]


class Lookup(Protocol):
    """An array, or an object that computes its entries on access; indexed by numbers [k] or a slice."""

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: Any, /) -> Numbers: ...


class SourceLengths(Protocol):
    """The interface of a source that the planner needs; `LengthIndex` implements it."""

    @property
    def name(self) -> str: ...

    @property
    def usable(self) -> Lookup:
        """[u]: numbers of the samples that can be read, ascending."""
        ...

    @property
    def max_epochs(self) -> float:
        """Largest number of times that the samples are read over the run; 0: no limit."""
        ...

    def lengths(self, phase: PhaseSettings, seed: int) -> Lookup:
        """[n, 4]: tokens, visual tokens, images, segments of each sample."""
        ...


class TooLong(NamedTuple):
    """The samples of a source that fit no row of a phase.

    Attributes:
      samples: [k] int64, indices of the first NAMED of them.
      lengths: [k, 4] int64, lengths of each; NEVER_FITS if the phase does not take samples of its kind.
      total: number of all such samples.
      passed: [4] number of samples, of kinds that the phase takes, that exceed each budget.
      longest: [4] largest length among the samples that exceed each budget; 0 if there are none.
      not_taken: number of samples of a kind that the phase does not take.
      usable: number of samples of the source that can be read and are kept.
      filtered: number of samples that can be read but that the source's `keep` excludes; no other field counts them.
    """

    samples: Numbers
    lengths: Numbers
    total: int
    passed: Numbers
    longest: Numbers
    not_taken: int
    usable: int
    filtered: int


def find_too_long(lengths: Lookup, usable: Lookup, budget: Numbers) -> TooLong:
    """Examines all samples of a source once, in blocks, on all cores.

    Args:
      lengths: [n, 4] lengths of each sample.
      usable: [u] indices of the samples that can be read.
      budget: [4] budget of a row.
    """

    def over(start: int) -> TooLong:
        samples = usable[start : start + _BLOCK]
        first, last = int(samples[0]), int(samples[-1])
        of_block = lengths[slice(first, last + 1) if last - first == len(samples) - 1 else samples]
        is_filtered = of_block[:, 0] == FILTERED
        rows = np.flatnonzero((of_block > budget).any(axis=1) & ~is_filtered)
        found = of_block[rows]
        passed = (found > budget) & (found < FILTERED)
        longest = np.where(passed, found, 0).max(axis=0, initial=0)
        not_taken = int((found == NEVER_FITS).any(axis=1).sum())
        filtered = int(is_filtered.sum())
        kept = len(samples) - filtered
        return TooLong(samples[rows[:NAMED]], found[:NAMED], len(rows), passed.sum(axis=0), longest, not_taken, kept, filtered)

    nothing = np.zeros(4, np.int64)
    total = TooLong(np.zeros(0, np.int64), np.zeros((0, 4), np.int64), 0, nothing, nothing, 0, 0, 0)
    for block in _mapped(over, range(0, len(usable), _BLOCK)):
        total = TooLong(
            np.concatenate([total.samples, block.samples])[:NAMED],
            np.concatenate([total.lengths, block.lengths])[:NAMED],
            total.total + block.total,
            total.passed + block.passed,
            np.maximum(total.longest, block.longest),
            total.not_taken + block.not_taken,
            total.usable + block.usable,
            total.filtered + block.filtered,
        )
    return total


def _mapped(function: Any, starts: range) -> Iterator[TooLong]:
    """Yields the results in order. One thread per core computes them; a limited number is computed ahead."""
    threads = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        ahead = 16 * threads
        for first in range(0, len(starts), ahead):
            yield from pool.map(function, starts[first : first + ahead])
