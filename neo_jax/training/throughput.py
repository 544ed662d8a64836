"""How fast a run is: tokens a second, model FLOPs utilisation (MFU) and the time left, over its last steps."""

from __future__ import annotations

import collections
import dataclasses
import time

import jax

from neo_jax import config
from neo_jax.training import flops

STEPS = 20  # that the speed is averaged over


@dataclasses.dataclass(frozen=True)
class Speed:
    """The speed of the last steps.

    Attributes:
      tokens_per_second: of all devices.
      seconds_per_step: mean.
      mfu: useful FLOPs of the step over what the devices could do in its time; None where the peak of the device is not known.
    """

    tokens_per_second: float
    seconds_per_step: float
    mfu: float | None


class Throughput:
    """Measures one phase.

    Args:
      shapes: of every parameter by name.
    """

    def __init__(self, model: config.Model, phase: config.Phase, shapes: dict[str, tuple[int, ...]]):
        self._model, self._phase, self._shapes = model, phase, shapes
        self._peak = flops.peak(jax.devices()[0].device_kind)
        self._times: collections.deque[tuple[float, int]] = collections.deque(maxlen=STEPS)

    def useful_flops(self, counts: flops.RowCounts) -> float:
        """FLOPs that a step with these rows needs."""
        return flops.useful(self._shapes, self._model.heads, self._model.head_dim, self._phase.trains, counts)

    def step_ended(self, tokens: int, useful: float) -> Speed | None:
        """Records the end of a step; returns the speed, None after the first step.

        Args:
          tokens: trained on by the whole run.
          useful: FLOPs of this step, from `useful_flops`.
        """
        self._times.append((time.monotonic(), tokens))
        steps = len(self._times) - 1
        elapsed = self._times[-1][0] - self._times[0][0]
        if steps == 0 or elapsed <= 0:
            return None
        mfu = None if self._peak is None else useful * steps / elapsed / (self._peak * jax.device_count())
        return Speed((tokens - self._times[0][1]) / elapsed, elapsed / steps, mfu)
