"""Plans the rows of a phase whose mixture or limits changed during training, or that was continued after its end.

Rows are planned in blocks. A block that has begun is finished with the settings it was planned with; the new settings apply from the next block
on. A phase that got more steps after its end is planned anew from there, as if another phase began. So no sample is repeated or lost by a change.
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
from data_pipelines.schema import DataError, PhaseSettings


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


class Span(NamedTuple):
    """A range of rows of a phase that one planner plans.

    Attributes:
      start: row that the planner counts from: 0, or where the phase had ended before it got more steps.
      until: end of the range, exclusive.
      plan: builds the planner from the state at the first row of the range; rows of states and planner are counted from `start`.
    """

    start: int
    until: int
    plan: Callable[[InputState], Planner]


class SplicedPlanner:
    """A sequence of planners for consecutive rows of one phase, with the methods of Planner that the loader needs.

    Args:
      phase: settings of the whole phase.
      spans: the ranges, in order, from that of the state on; the last one reaches to the end of the phase.
      state: state from which the first planner is built.
    """

    def __init__(self, phase: PhaseSettings, spans: Sequence[Span], state: InputState):
        self.number, self.phase = state.phase, phase
        self._spans = spans
        self._planners = [spans[0].plan(dataclasses.replace(state, row=state.row - spans[0].start))]
        self._lock = threading.Lock()  # decoding threads share the planners

    def row(self, row: int) -> list[Draw]:
        planner, start = self._at(row)
        return planner.row(row - start)

    def state(self, row: int) -> InputState:
        planner, start = self._at(min(row, self.phase.rows - 1))
        state = planner.state(row - start)
        return dataclasses.replace(state, row=row) if state.phase == self.number else state

    def planned(self, row: int) -> tuple[list[Draw], npt.NDArray[np.int64]]:
        planner, start = self._at(row)
        return planner.planned(row - start)

    def _at(self, row: int) -> tuple[Planner, int]:
        """Returns the planner of a row, and the row that it counts from."""
        span = next(number for number, each in enumerate(self._spans) if row < each.until)
        with self._lock:
            while len(self._planners) <= span:
                before, after = self._spans[len(self._planners) - 1 : len(self._planners) + 1]
                state = self._planners[-1].state(before.until - before.start)
                if after.start != before.start:
                    state = InputState(self.number, 0, 0, state.positions)
                self._planners.append(after.plan(state))
        return self._planners[span], self._spans[span].start
