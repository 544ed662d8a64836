"""Packs samples into rows under several budgets, from lengths alone.

A sample's lengths and a row's budget are lists of four numbers: tokens, visual tokens, images, segments.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.planning.balance import document_pairs

Numbers = npt.NDArray[np.int64]

_SHORTER, _LONGER = 8, 56  # numbers of lengths below and above the target that are tried for the longer of a row's last two samples
# Targets of a row: fewer samples and more pairs than its share, so that short samples of similar lengths remain for the last rows.
_FEWER_SAMPLES, _LEAST_SAMPLES, _MORE_PAIRS = 1.5, 0.8, 1.05
_OPEN = 64  # rows that are considered for a sample
_MISSES = 8  # samples that may fail to fit before a row tries another kind


def fill_rows(lengths: Numbers, budget: Sequence[int], most: int) -> tuple[list[list[int]], int]:
    """Fills rows one after the other from a known set of samples, so that all rows have about equal samples, attended pairs and visual tokens.

    A row begins with the longest sample. The length of each next sample is chosen so that, if all further samples of the row had one common
    length, the row would get its share of the remaining samples and pairs. The sample has media while the row has less than its share of
    visual tokens. The last two samples are chosen together, so that few tokens remain unused. A row whose first sample alone has more pairs
    than its share still takes its share of samples.

    Args:
      lengths: [n, 4] int64, each within the budget.
      budget: budget of a row.
      most: largest number of rows.

    Returns:
      Indices of the samples in each row, and number of placed samples: all, unless `most` rows do not suffice.
    """
    filling = _Filling(lengths, budget)
    rows: list[list[int]] = []
    while filling.samples and len(rows) < most:
        rows.append(filling.row(len(rows)))
    return rows, len(lengths) - filling.samples


class _Filling:
    """The samples that remain to be placed, and the number of rows for them."""

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
        """Chooses a sample for the remaining budget `rest` of a row that should still take `pairs` and `samples`; None if none fits."""
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
    """Samples ordered by their number of tokens; samples that were taken through another shelf are skipped."""

    def __init__(self, samples: Numbers, lengths: list[list[int]], used: list[bool]):
        self._lengths = lengths
        self._used = used
        self._by_tokens: dict[int, list[int]] = {}
        for sample in samples[::-1].tolist():
            self._by_tokens.setdefault(lengths[sample][0], []).append(sample)
        self.tokens = sorted(self._by_tokens)  # lengths of the remaining samples, and of some that are already used

    def longest(self) -> int | None:
        while self.tokens:
            if (sample := self._sample(len(self.tokens) - 1)) is not None:
                return sample
        return None

    def nearest(self, wanted: float, rest: Sequence[int]) -> int | None:
        """Returns the longest fitting sample of at most `wanted` tokens, or the shortest if all are longer; None if none fits."""
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
        """Returns the longer sample, near `wanted` tokens, of the pair that best fills the rest; if `count` < 2, prefers a single sample."""
        limit, misses = rest[0], 0
        while misses < _MISSES and (at := self._choose(wanted, rest[0], count, bisect.bisect_right(self.tokens, limit))) is not None:
            tokens, sample = self.tokens[at], self._sample(at)
            if sample is not None:
                if self._fits(sample, rest):
                    return sample
                misses, limit = misses + 1, tokens - 1
        return None

    def _choose(self, wanted: float, room: int, count: int, end: int) -> int | None:
        """Returns the index of that sample's length in `tokens[:end]`; None if this is empty."""
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
        """Returns the first unused sample of length tokens[at]. If there is none, removes that length and returns None."""
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
    """Rows to which samples are added one by one, each to the row where it leaves the least room. Only the rows with most room are considered.

    Args:
      rows: indices of the samples in each row at the start; these lists are extended.
      lengths: [n, 4] lengths of those samples.
      budget: budget of a row.
      most: largest number of rows.
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
        """Adds a sample to the fullest row that has room for it, else to a new row. Returns False if no more rows are allowed."""
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
