"""Packing of samples into rows under several budgets, from lengths alone.

A sample's lengths, and a row's budget, are lists of four: tokens, visual tokens, images, segments.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.planning.balance import document_pairs

Numbers = npt.NDArray[np.int64]

_SHORTER, _LONGER = 8, 56  # lengths around the wanted one that are tried as the longer of the last two samples of a row
# What a row aims at: fewer samples and more pairs than its share, so that short and alike samples are left to fill the last rows.
_FEWER_SAMPLES, _LEAST_SAMPLES, _MORE_PAIRS = 1.5, 0.8, 1.05
_OPEN = 64  # rows that are still looked at
_MISSES = 8  # samples that do not fit before a row goes on with another kind


def fill_rows(lengths: Numbers, budget: Sequence[int], most: int) -> tuple[list[list[int]], int]:
    """Fills rows one after the other from samples that are all at hand, so that rows hold alike: samples, attended pairs, visual tokens.

    A row begins with the longest sample. The next is so long that it, and samples of one length beside it, bring the row to its share
    of the samples and pairs that are left; it has media while the row has less than its share of visual tokens. The last two are
    chosen together, so that little is left. A row whose first sample alone has more pairs than its share still takes its share of samples.

    Args:
      lengths: [n, 4] int64, each within the budget.
      budget: of a row.
      most: rows.

    Returns:
      The numbers of the samples in each row, and how many samples were placed: all, unless `most` rows do not suffice.
    """
    filling = _Filling(lengths, budget)
    rows: list[list[int]] = []
    while filling.samples and len(rows) < most:
        rows.append(filling.row(len(rows)))
    return rows, len(lengths) - filling.samples


class _Filling:
    """What is left to place, and the rows it should take."""

    def __init__(self, lengths: Numbers, budget: Sequence[int]):
        has_media = (lengths[:, 1:3] > 0).any(axis=1)
        used = [False] * len(lengths)
        self._lengths, self._budget, self._used = lengths.tolist(), budget, used
        self._all = _Shelf(np.arange(len(lengths)), self._lengths, used)
        self._text, self._media = (_Shelf(np.flatnonzero(kind), self._lengths, used) for kind in (~has_media, has_media))
        self._pairs = document_pairs(lengths).tolist()
        self._rows = max((-(-total // most) for total, most in zip(lengths.sum(axis=0).tolist(), budget, strict=True) if most), default=0)
        self.samples, self.pairs, self.visual = len(lengths), sum(self._pairs), int(lengths[:, 1].sum())

    def row(self, number: int) -> list[int]:
        """Fills row `number`."""
        rows = max(1, self._rows - number)
        share = self.samples / rows
        samples, pairs = max(share - _FEWER_SAMPLES, _LEAST_SAMPLES * share), _MORE_PAIRS * self.pairs / rows
        visual = self._budget[1] - self.visual / rows
        rest, row = list(self._budget), list[int]()
        sample = self._all.longest()
        while sample is not None:
            needs = self._lengths[sample]
            self._used[sample] = True
            row.append(sample)
            rest[0] -= needs[0]
            rest[1] -= needs[1]
            rest[2] -= needs[2]
            rest[3] -= needs[3]
            pairs -= self._pairs[sample]
            samples -= 1
            self.pairs -= self._pairs[sample]
            self.visual -= needs[1]
            self.samples -= 1
            if not self.samples or not rest[3] or rest[0] < self._all.tokens[0]:
                break
            sample = self._next(rest, pairs, samples, rest[1] < visual)
        return row

    def _next(self, rest: list[int], pairs: float, samples: float, text: bool) -> int | None:
        """Chooses a sample for the `rest` of a row that should still take so many pairs and samples; None when none fits."""
        room, tokens = rest[0], self._all.tokens
        count = min(max(round(samples), -(-room // tokens[-1])), room // tokens[0])
        spread = (count - 1) * (2 * pairs * count - room * room)
        wanted = (room + math.sqrt(spread)) / count if spread > 0 else room / count
        if count > 2:
            sample = (self._text if text else self._media).nearest(wanted, rest)
            if sample is None:
                sample = (self._media if text else self._text).nearest(wanted, rest)
            if sample is not None:
                return sample
        sample = self._all.last(wanted, rest, count)
        return self._text.last(wanted, rest, count) if sample is None else sample


class _Shelf:
    """Samples by their tokens; those that another shelf gave away are skipped."""

    def __init__(self, samples: Numbers, lengths: list[list[int]], used: list[bool]):
        self._lengths = lengths
        self._used = used
        self._by_tokens: dict[int, list[int]] = {}
        for sample in samples[::-1].tolist():
            self._by_tokens.setdefault(lengths[sample][0], []).append(sample)
        self.tokens = sorted(self._by_tokens)  # of samples that are left, and of some that are not

    def longest(self) -> int | None:
        while self.tokens:
            if (sample := self._sample(len(self.tokens) - 1)) is not None:
                return sample
        return None

    def nearest(self, wanted: float, rest: Sequence[int]) -> int | None:
        """The longest sample of at most so many tokens that fits, else the shortest."""
        tokens, misses = self.tokens, 0
        at = max(0, bisect.bisect_right(tokens, min(wanted, rest[0])) - 1)
        while misses < _MISSES and at < len(tokens) and tokens[at] <= rest[0]:
            sample = self._sample(at)
            if sample is not None:
                if self._fits(sample, rest):
                    return sample
                misses += 1
            if not at:
                break
            at -= 1
        return None

    def last(self, wanted: float, rest: Sequence[int], count: int) -> int | None:
        """The longer, near the wanted tokens, of the two samples that fill the rest best; where one is due (`count`), rather one alone."""
        limit, misses = rest[0], 0
        while misses < _MISSES and (at := self._choose(wanted, rest[0], count, bisect.bisect_right(self.tokens, limit))) is not None:
            tokens, sample = self.tokens[at], self._sample(at)
            if sample is not None:
                if self._fits(sample, rest):
                    return sample
                misses, limit = misses + 1, tokens - 1
        return None

    def _choose(self, wanted: float, room: int, count: int, end: int) -> int | None:
        """Where in `tokens[:end]` that sample's length stands; None where it is empty."""
        tokens = self.tokens
        if not end:
            return None
        longest = tokens[end - 1]
        if (longest == room and count < 2) or 2 * longest <= room or 2 * tokens[0] > room:
            return end - 1
        best, choice = (longest, end - 1) if count < 2 else (0, 0)
        near = bisect.bisect_right(tokens, wanted, 0, end)
        for longer in range(max(0, near - _SHORTER), min(end, near + _LONGER)):
            partner = bisect.bisect_right(tokens, room - tokens[longer], 0, end)
            total = tokens[longer] + (tokens[partner - 1] if partner else 0)
            if total > best:
                best, choice = total, longer
                if best == room:
                    break
        return choice

    def _sample(self, at: int) -> int | None:
        """The first sample of tokens[at]; None, and that length is dropped, where there is none."""
        waiting, used = self._by_tokens[self.tokens[at]], self._used
        while waiting:
            if not used[waiting[-1]]:
                return waiting[-1]
            waiting.pop()
        del self.tokens[at]
        return None

    def _fits(self, sample: int, rest: Sequence[int]) -> bool:
        needs = self._lengths[sample]
        return needs[1] <= rest[1] and needs[2] <= rest[2] and needs[3] <= rest[3]


class OpenRows:
    """Rows that take more samples, one by one, each where it leaves the least room. Only the roomiest rows are looked at.

    Args:
      rows: numbers of samples in each row to begin with; these lists grow.
      lengths: [n, 4] of those samples.
      budget: of a row.
      most: rows there may be.
    """

    def __init__(self, rows: list[list[int]], lengths: Numbers, budget: Sequence[int], most: int):
        self.rows = rows
        self._budget = tuple(budget)
        self._most = most
        members = np.array([sample for row in rows for sample in row], np.int64)
        taken = np.zeros((len(rows), 4), np.int64)
        np.add.at(taken, np.repeat(np.arange(len(rows)), [len(row) for row in rows]), lengths[members])
        self._rest = [tuple(rest) for rest in (np.array(budget) - taken).tolist()]  # of each row
        self._roomy = sorted((rest[0], row) for row, rest in enumerate(self._rest))[-_OPEN:]  # tokens left, row

    def place(self, sample: int, needs: Sequence[int]) -> bool:
        """Adds a sample to the fullest row that has room for it, else to a new one. False when there may be no more rows."""
        tokens, visual, images, segments = needs
        for at in range(bisect.bisect_left(self._roomy, (tokens, 0)), len(self._roomy)):
            row = self._roomy[at][1]
            rest = self._rest[row]
            if visual <= rest[1] and images <= rest[2] and segments <= rest[3]:
                del self._roomy[at]
                break
        else:
            if len(self.rows) == self._most:
                return False
            if len(self._roomy) == _OPEN:
                del self._roomy[0]
            row, rest = len(self.rows), self._budget
            self.rows.append([])
            self._rest.append(rest)
        self.rows[row].append(sample)
        self._rest[row] = tuple(have - need for have, need in zip(rest, needs, strict=True))
        bisect.insort(self._roomy, (rest[0] - tokens, row))
        return True
