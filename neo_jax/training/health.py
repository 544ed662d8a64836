"""Bad steps: a loss or a gradient that is not finite, or a loss that spikes. Decides what counts as one, and when there are too many.

The devices leave parameters and moments as they are at a bad step, so that no later step sees it. What follows is run.bad_steps: the run stops,
skips the step, or goes back to the last checkpoint and on behind the rows of the bad step. All of it depends on losses alone, which are the same in
every process and after every restart.
"""

from __future__ import annotations

import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from neo_jax import config
from neo_jax.processes import exchange
from neo_jax.runs.record import Position
from neo_jax.training.step import StepMetrics

WINDOW = 64  # losses of a phase that a spike is measured by: their median
MIN_LOSSES = 16  # before so many, nothing is a spike
LIMIT_STEPS = 1000  # run.max_bad_steps counts in so many steps
INCIDENTS = "incidents.jsonl"  # of the run directory


class BadStepError(RuntimeError):
    """A step is bad and the run may not go on; the message names step, phase, rows and samples."""


class Health:
    """The losses of the last steps, and the bad steps.

    Args:
      run: the section of the configuration.
      state: from `state` of an earlier start; empty for a new run.
    """

    def __init__(self, run: config.Run, state: Mapping[str, Any]):
        self._run = run
        self._phase: int = state.get("phase", 0)
        self._losses: list[tuple[int, float]] = [(step, loss) for step, loss in state.get("losses", ())]
        self._bad: list[int] = list(state.get("bad", ()))
        self._broken = False  # whether the parameters are not finite

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"phase": self._phase, "losses": [list(each) for each in self._losses], "bad": self._bad}

    def loss_limit(self, phase: int, step: int) -> np.float32:
        """Returns the loss above which a step of the run is a spike.

        The losses up to the last but one count: while a step is dispatched, the one before it is still running.
        """
        if not self._run.spike_factor or phase != self._phase:
            return np.float32(math.inf)
        known = [loss for number, loss in self._losses if number <= step - 2]
        if len(known) < MIN_LOSSES:
            return np.float32(math.inf)
        return np.float32(self._run.spike_factor * statistics.median(known[-WINDOW:]))

    def judge(self, metrics: StepMetrics, position: Position) -> str:
        """Notes the loss of a step; returns why the step is bad, "" if it is not."""
        if position.phase != self._phase:
            self._phase, self._losses = position.phase, []
        self._broken = not np.isfinite(metrics.parameter_norm)
        if metrics.applied and not self._broken:
            self._losses = [*self._losses, (position.step, float(metrics.loss))][-WINDOW - 1 :]
            return ""
        self._bad = [*(step for step in self._bad if step > position.step - LIMIT_STEPS), position.step]
        if self._broken:
            return f"the norm of the updated parameters is {metrics.parameter_norm} (loss {metrics.loss}, gradient norm {metrics.gradient_norm})"
        if np.isfinite([metrics.loss, metrics.gradient_norm]).all():
            return f"loss {metrics.loss} is above {self._run.spike_factor:g} times the median of the steps before"
        return f"loss {metrics.loss}, gradient norm {metrics.gradient_norm}"

    def too_many(self) -> str:
        """Returns why the run may not go on after a bad step, "" if it may."""
        if self._run.bad_steps == "stop":
            return "the last checkpoint is from before. To go on, change what caused it, or set run.bad_steps to skip or rewind"
        if self._broken and self._run.bad_steps == "skip":
            return "the last checkpoint is from before. To skip the step mends nothing: set run.bad_steps to rewind, or lower the learning rate"
        if len(self._bad) > self._run.max_bad_steps:
            return f"it is the {len(self._bad)}th bad step in {LIMIT_STEPS} steps, more than run.max_bad_steps {self._run.max_bad_steps}"
        return ""

    def note(self, problem: str, position: Position, phase: config.Phase, keys: Callable[[int], list[str]], directory: pathlib.Path) -> str:
        """Records a bad step and returns a line about it. Raises BadStepError if the run stops at it.

        Args:
          problem: from `judge`.
          position: after the step.
          keys: returns the samples' keys of a row of the phase.
          directory: of the run.
        """
        first = (position.phase_step - 1) * phase.rows_per_step
        rows = [first, first + phase.rows_per_step - 1]
        samples = [key for row in range(rows[0], rows[1] + 1) for key in keys(row)]
        end = self.too_many()
        what = "stopped" if end else {"skip": "skipped", "rewind": "rewound"}[self._run.bad_steps]
        if exchange.is_first():
            write_incident(directory, position.step, phase.name, what, reason=problem, rows=rows, samples=samples)
        place = f"at step {position.step}, step {position.phase_step} of phase {phase.name}, rows {rows[0]} to {rows[1]}"
        if end:
            raise BadStepError(f"{problem} {place}; {end}. Samples: {', '.join(samples)}")
        return f"{what} {place}: {problem} (samples in {INCIDENTS})"


def write_incident(directory: pathlib.Path, step: int, phase: str, kind: str, **more: Any) -> None:
    """Appends a line to the incidents of a run. Steps that are repeated after a restart write theirs again."""
    line = {"time": round(time.time(), 3), "step": step, "phase": phase, "kind": kind, **more}
    with (directory / INCIDENTS).open("a") as file:
        file.write(json.dumps(line) + "\n")
