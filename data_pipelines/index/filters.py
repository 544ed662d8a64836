"""Finds the samples that a source's `keep` leaves out, from the index's columns and without a loop over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.conditions import Condition, of_measures
from data_pipelines.index.columns import Columns, Numbers
from data_pipelines.index.spans import Rows, members, ragged, spans

_SIZES: Mapping[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {  # functions of [n, 2] heights and widths
    "pixels": lambda size: size[:, 0] * size[:, 1],
    "side": lambda size: size.min(axis=1),
    "aspect": lambda size: size.max(axis=1) / np.maximum(size.min(axis=1), 1),
}


class Filters:
    """The conditions of a source on measures in the index.

    Args:
      keep: conditions of the source's settings; those on columns of rows are not used here.
    """

    def __init__(self, keep: Sequence[str]):
        self._conditions = of_measures(keep)

    def rejected(self, columns: Columns, rows: Rows) -> npt.NDArray[np.int64]:
        """Returns [r] the positions in `rows` of the samples that are left out, each at least once.

        They fail a condition on measures here, or failed a condition on a row's column when they were measured.
        """
        rejected = [members(columns["filtered_sample"], rows)[1]]
        for condition in self._conditions:
            rejected += _rejected_by(condition, columns, rows)
        return np.concatenate(rejected)


def _rejected_by(condition: Condition, columns: Columns, rows: Rows) -> list[Numbers]:
    def failing(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        return ~np.asarray(condition.holds(values), bool)

    if condition.name == "tokens":
        return [np.flatnonzero(failing(columns["text"][rows]))]
    starts, ends = spans(columns["size_ends"], rows)
    if condition.name == "images":
        return [np.flatnonzero(failing(ends - starts))]
    clips, places = members(columns["clip_sample"], rows)
    if condition.name == "clips":
        return [np.flatnonzero(failing(np.bincount(places, minlength=len(starts))))]
    if condition.name == "seconds":
        return [places[failing(columns["clips"][clips, 0])]]
    of_size, counts = _SIZES[condition.name], ends - starts
    of_images = of_size(columns["sizes"][ragged(starts, counts)].astype(np.float64))
    of_clips = of_size(columns["clips"][clips, 3:])
    return [np.repeat(np.arange(len(counts)), counts)[failing(of_images)], places[failing(of_clips)]]
