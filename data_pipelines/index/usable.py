"""The numbers of the usable samples of a source, computed without a list of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.index.columns import Numbers


class Usable:
    """The numbers of the usable samples of a source, ascending. Takes 8 bytes of memory for each sample that cannot be used.

    `usable[positions]`, for positions [k] or a slice, is [k] int64: the sample numbers at these positions.
    """

    def __init__(self, samples: int, failures: Numbers):
        """Takes the number of all samples, and the ascending numbers of those that cannot be used."""
        self._samples = samples
        self._skipped = failures - np.arange(len(failures))  # number of usable samples before each failure

    def __len__(self) -> int:
        return self._samples - len(self._skipped)

    def __getitem__(self, positions: slice | npt.NDArray[Any]) -> Numbers:
        at = np.arange(*positions.indices(len(self))) if isinstance(positions, slice) else np.asarray(positions, np.int64)
        numbers: Numbers = at + np.searchsorted(self._skipped, at, side="right")
        return numbers

    def tolist(self) -> list[int]:
        numbers: list[int] = self[:].tolist()
        return numbers
