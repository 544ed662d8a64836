"""Packing of samples into rows under several budgets, from lengths alone.

A sample's lengths, and a row's budget, are lists of four: tokens, visual tokens, images, segments.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterable, Sequence

_PAIRS = 64  # lengths tried as the longer of the last two samples of a row
_OPEN = 64  # rows that are still looked at
_MISSES = 8  # samples with media that do not fit before a row goes on with text alone


def fill_rows(lengths: Sequence[Sequence[int]], budget: Sequence[int], most: int) -> tuple[list[list[int]], int]:
    """Fills rows one after the other from samples that are all at hand.

    A row takes the longest samples that fit; its last two are chosen together, so that little is left. That fills rows of few
    samples better than best fit decreasing (99.5% against 97.8% with three or four samples a row).

    Args:
      lengths: [n][4], each within the budget.
      budget: of a row.
      most: rows.

    Returns:
      The numbers of the samples in each row, and how many samples were placed: all, unless `most` rows do not suffice.
    """
    used = [False] * len(lengths)
    everything = _Shelf(range(len(lengths)), lengths, used)
    text = _Shelf((i for i, sample in enumerate(lengths) if sample[1] == 0 == sample[2]), lengths, used)
    rows: list[list[int]] = []
    placed = 0
    while placed < len(lengths) and len(rows) < most:
        rest = list(budget)
        row: list[int] = []
        for shelf in (everything, text):
            shelf.fill(row, rest)
        rows.append(row)
        placed += len(row)
    return rows, placed


class _Shelf:
    """Samples by their tokens; those that another shelf gave away are skipped."""

    def __init__(self, samples: Iterable[int], lengths: Sequence[Sequence[int]], used: list[bool]):
        self._lengths = lengths
        self._used = used
        self._by_tokens: dict[int, collections.deque[int]] = collections.defaultdict(collections.deque)
        for sample in samples:
            self._by_tokens[lengths[sample][0]].append(sample)
        self._tokens = sorted(self._by_tokens)

    def fill(self, row: list[int], rest: list[int]) -> None:
        """Adds samples to a row until none fits, or too many did not; `rest` is what the row has left."""
        misses, shorter_than = 0, rest[0] + 1
        while misses < _MISSES and rest[3] > 0 and (tokens := self._choose(min(rest[0], shorter_than - 1))):
            waiting = self._by_tokens[tokens]
            while waiting and self._used[waiting[0]]:
                waiting.popleft()
            if not waiting:
                del self._tokens[bisect.bisect_left(self._tokens, tokens)]
                continue
            needs = self._lengths[waiting[0]]
            if needs[1] > rest[1] or needs[2] > rest[2] or needs[3] > rest[3]:
                misses, shorter_than = misses + 1, tokens
                continue
            sample = waiting.popleft()
            self._used[sample] = True
            row.append(sample)
            rest[:] = [left - need for left, need in zip(rest, needs, strict=True)]

    def _choose(self, room: int) -> int:
        """The longest that fits, or the longer of the two that fill the room best when two can; 0 when none fits."""
        tokens = self._tokens
        end = bisect.bisect_right(tokens, room)
        if not end or 2 * tokens[end - 1] <= room:
            return tokens[end - 1] if end else 0
        best, choice = 0, 0
        for longer in reversed(tokens[max(0, end - _PAIRS) : end]):
            partner = bisect.bisect_right(tokens, room - longer, 0, end)
            total = longer + (tokens[partner - 1] if partner else 0)
            if total > best:
                best, choice = total, longer
                if best == room:
                    break
        return choice


class OpenRows:
    """Rows that take more samples, one by one, each where it leaves the least room. Only the roomiest rows are looked at.

    Args:
      rows: numbers of samples in each row to begin with; these lists grow.
      lengths: [n][4] of those samples.
      budget: of a row.
      most: rows there may be.
    """

    def __init__(self, rows: list[list[int]], lengths: Sequence[Sequence[int]], budget: Sequence[int], most: int):
        self.rows = rows
        self._budget = tuple(budget)
        self._most = most
        self._rest: list[tuple[int, ...]] = []  # of each row
        for row in rows:
            taken = [sum(column) for column in zip(*(lengths[sample] for sample in row), strict=True)]
            self._rest.append(tuple(have - need for have, need in zip(budget, taken, strict=True)))
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
