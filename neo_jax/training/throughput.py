"""The speed of a run over its last steps: tokens per second, seconds per step and model FLOPs utilisation (MFU)."""

from __future__ import annotations

import collections
import dataclasses
import time

import jax

from neo_jax import config
from neo_jax.training import flops

STEPS = 20  # over which the speed is averaged


@dataclasses.dataclass(frozen=True)
class Speed:
    """The mean speed over the last steps.

    Attributes:
      tokens_per_second: over all devices.
      seconds_per_step: wall time of a step.
      mfu: useful FLOPs of the step divided by peak FLOP/s of all devices times seconds; None if the peak is not known.
      input_wait: share of the wall time for which the loop waited for rows.
    """

    tokens_per_second: float
    seconds_per_step: float
    mfu: float | None
    input_wait: float


class Throughput:
    """Measures the speed of one phase.

    Args:
      shapes: shape of every parameter, by name.
    """

    def __init__(self, model: config.Model, phase: config.Phase, shapes: dict[str, tuple[int, ...]]):
        self._model, self._phase, self._shapes = model, phase, shapes
        self._peak = flops.peak(jax.devices()[0].device_kind)
        self._times: collections.deque[tuple[float, int, float]] = collections.deque(maxlen=STEPS)

    def useful_flops(self, counts: flops.RowCounts) -> float:
        """Returns the useful FLOPs of a step whose rows have these counts."""
        return flops.useful(self._shapes, self._model.heads, self._model.head_dim, self._phase.trains, counts)

    def step_ended(self, tokens: int, useful: float, waited: float = 0.0) -> Speed | None:
        """Records the end of a step; returns the speed, or None after the first step.

        Args:
          tokens: tokens that the whole run has trained on so far.
          useful: FLOPs of this step, from `useful_flops`.
          waited: seconds for which this step waited for its rows.
        """
        self._times.append((time.monotonic(), tokens, waited))
        steps = len(self._times) - 1
        elapsed = self._times[-1][0] - self._times[0][0]
        if steps == 0 or elapsed <= 0:
            return None
        mfu = None if self._peak is None else useful * steps / elapsed / (self._peak * jax.device_count())
        wait = sum(each[2] for each in self._times) - self._times[0][2]  # the first one's is from before
        return Speed((tokens - self._times[0][1]) / elapsed, elapsed / steps, mfu, min(1.0, wait / elapsed))
