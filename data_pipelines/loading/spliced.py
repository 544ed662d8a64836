"""Rows of a phase whose mixture or limits changed while it was read: planned as before up to the end of a block, then as they are now.

Rows are planned in blocks. A block that was begun is finished as it was planned; from the next one on the new settings hold. So no sample is
repeated and none is lost, whatever changed.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.planning.draws import Draw
from data_pipelines.planning.planner import InputState, Planner
from data_pipelines.schema import DataError


class Limits(NamedTuple):
    """What of a source may change: as in SourceSettings."""

    keep: tuple[str, ...]
    max_epochs: float


@dataclasses.dataclass(frozen=True)
class Earlier:
    """How the rows of a phase are planned up to one of them.

    Attributes:
      phase: its name.
      until: the first row that is planned otherwise.
      mixture: weight of each source by name.
      limits: of each source by name, of those that there were.
    """

    phase: str
    until: int
    mixture: Mapping[str, float]
    limits: Mapping[str, Limits]

    def to_json(self) -> dict[str, Any]:
        """As plain data that JSON can hold."""
        return dataclasses.asdict(self) | {"limits": {name: list(limits) for name, limits in self.limits.items()}}

    @classmethod
    def from_json(cls, values: Any) -> Earlier:
        """Raises DataError for what `to_json` does not give."""
        try:
            limits = {name: Limits(tuple(keep), float(epochs)) for name, (keep, epochs) in values["limits"].items()}
            return cls(str(values["phase"]), int(values["until"]), {name: float(w) for name, w in values["mixture"].items()}, limits)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not what rows were planned by: {str(values)[:200]} ({type(error).__name__}: {error})") from error


class SplicedPlanner:
    """Planners of one phase that follow one another. As Planner, for what a loader asks of it.

    Args:
      spans: (until, planner): each makes a planner from the state at its first row, for the rows before `until`. The last one's holds to the
        end of the phase.
      state: that the first is made from.
    """

    def __init__(self, spans: Sequence[tuple[int, Callable[[InputState], Planner]]], state: InputState):
        self._spans = spans
        self._planners = [spans[0][1](state)]
        self._lock = threading.Lock()  # decoding threads share the planners
        self.number, self.phase = self._planners[0].number, self._planners[0].phase

    def row(self, row: int) -> list[Draw]:
        return self._at(row).row(row)

    def state(self, row: int) -> InputState:
        return self._at(min(row, self.phase.rows - 1)).state(row)

    def planned(self, row: int) -> tuple[list[Draw], npt.NDArray[np.int64]]:
        return self._at(row).planned(row)

    def _at(self, row: int) -> Planner:
        span = next(number for number, (until, _) in enumerate(self._spans) if row < until)
        with self._lock:
            while len(self._planners) <= span:
                until = self._spans[len(self._planners) - 1][0]
                self._planners.append(self._spans[len(self._planners)][1](self._planners[-1].state(until)))
        return self._planners[span]
