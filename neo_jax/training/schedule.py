"""After which steps a run saves, measures and compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from neo_jax import config
from neo_jax.runs.record import Position


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The schedule of one phase.

    Attributes:
      run: the section of the configuration.
      phase: the phase.
      asks: given the number of steps taken in the phase, returns whether benchmarks are asked then.
    """

    run: config.Run
    phase: config.Phase
    asks: Callable[[int], bool]

    def saves(self, position: Position) -> bool:
        # A step after which benchmarks are asked is saved first: a run that is stopped while it asks has lost nothing.
        regular = position.step % self.run.checkpoint_every == 0 or position.phase_step == self.phase.steps
        return regular or self.asks(position.phase_step)

    def measures_heldout(self, position: Position) -> bool:
        every = self.run.heldout_every
        return position.phase_step == self.phase.steps or bool(every and position.phase_step % every == 0)

    def compares(self, position: Position, saved: bool) -> bool:
        """Returns whether replicas are compared. saved: whether the step is saved, by the schedule or because the run stops."""
        every = self.run.compare_replicas_every
        return bool(every) and (saved or position.step % every == 0)

    def waits(self, position: Position) -> bool:
        """Returns whether the state after this step is saved, measured or compared, so that the next step has to wait."""
        return self.saves(position) or self.measures_heldout(position) or self.compares(position, saved=False)
