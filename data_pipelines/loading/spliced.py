"""Plans the rows of a phase whose mixture or limits changed during training: old settings up to the end of a block, then the new ones.

Rows are planned in blocks. A block that has begun is finished with the settings it was planned with; the new settings apply from the next block
on. So no sample is repeated or lost by a change.
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
    """The settings of a source that may change during a phase; fields as in SourceSettings."""

    keep: tuple[str, ...]
    max_epochs: float


@dataclasses.dataclass(frozen=True)
class Earlier:
    """Earlier settings of a phase and the range of rows that are planned with them.

    Attributes:
      phase: name of the phase.
      until: end of the range, exclusive.
      mixture: weight of each source by name.
      limits: limits of each source by name, for the sources that existed then.
    """

    phase: str
    until: int
    mixture: Mapping[str, float]
    limits: Mapping[str, Limits]

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as JSON-serializable data."""
        return dataclasses.asdict(self) | {"limits": {name: list(limits) for name, limits in self.limits.items()}}

    @classmethod
    def from_json(cls, values: Any) -> Earlier:
        """Converts a result of `to_json` back. Raises DataError if the argument is not such a result."""
        try:
            limits = {name: Limits(tuple(keep), float(epochs)) for name, (keep, epochs) in values["limits"].items()}
            return cls(str(values["phase"]), int(values["until"]), {name: float(w) for name, w in values["mixture"].items()}, limits)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not what rows were planned by: {str(values)[:200]} ({type(error).__name__}: {error})") from error


class SplicedPlanner:
    """A sequence of planners for consecutive rows of one phase, with the methods of Planner that the loader needs.

    Args:
      spans: pairs (until, factory). The factory builds a planner from the state at the first row of its span; the planner is used for rows
        before `until`. The last span reaches to the end of the phase.
      state: state from which the first planner is built.
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
