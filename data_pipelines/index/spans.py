"""Spans of consecutive values in a column: the beginning and end of each row's span, and sums over spans."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.index.columns import Numbers

Rows = slice | Numbers


def spans(ends: Numbers, rows: Rows) -> tuple[Numbers, Numbers]:
    """Returns where the values of `rows` begin and end, given where the values of each row end."""
    if isinstance(rows, slice):
        stops = ends[rows]
        first = int(ends[rows.start - 1]) if rows.start else 0
        return np.concatenate([[first], stops])[: len(stops)].astype(np.int64), stops
    return np.where(rows > 0, ends[rows - 1], 0), ends[rows]


def ragged(starts: Numbers, counts: Numbers) -> Numbers:
    """Returns [counts.sum()] the concatenated ranges [start, start + count)."""
    first = np.cumsum(counts) - counts
    return np.repeat(starts - first, counts) + np.arange(counts.sum())


def sums(values: npt.NDArray[Any], counts: Numbers) -> Numbers:
    """Returns [k] the sums of consecutive spans of `values`, which have `counts` values each."""
    total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    ends = np.cumsum(counts)
    result: Numbers = total[ends] - total[ends - counts]
    return result


def members(numbers: Numbers, rows: Rows) -> tuple[Numbers, Numbers]:
    """Finds the entries of `numbers`, an ascending column of sample numbers, that belong to `rows`.

    Returns the indices of the entries, and for each the position in `rows` that it belongs to.
    """
    if isinstance(rows, slice):
        low, high = np.searchsorted(numbers, [rows.start, rows.stop]).tolist()
        return np.arange(low, high), np.asarray(numbers[low:high] - rows.start)
    starts = np.searchsorted(numbers, rows)
    counts = np.searchsorted(numbers, rows, side="right") - starts
    return ragged(starts, counts), np.repeat(np.arange(len(rows)), counts)
