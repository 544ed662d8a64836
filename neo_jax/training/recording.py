"""The metrics line of a step, made from what the step returned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from neo_jax import config
from neo_jax.runs.metrics import StepRecord
from neo_jax.runs.record import Position
from neo_jax.training.flops import RowCounts
from neo_jax.training.step import StepMetrics
from neo_jax.training.throughput import Speed


@dataclasses.dataclass(frozen=True)
class DispatchedStep:
    """A step that was dispatched and whose results are still on the devices.

    Attributes:
      results: the metrics, and the counts of its rows (flops.count_rows).
      position: the position of the run after the step.
      learning_rate: learning rate of the step.
      waited: seconds that the step waited for its batch.
    """

    results: tuple[StepMetrics, jax.Array]
    position: Position
    learning_rate: float
    waited: float


def mean_heldout(losses: Mapping[str, float] | None) -> float | None:
    """Returns the mean of the held-out losses of all sources; None if they were not measured or one is not finite."""
    mean = sum(losses.values()) / len(losses) if losses else None
    return mean if mean is not None and math.isfinite(mean) else None


def step_record(
    phase: config.Phase,
    done: DispatchedStep,
    metrics: StepMetrics,
    counts: RowCounts,
    speed: Speed | None,
    tasks: Mapping[str, str],
    **more: Any,
) -> StepRecord:
    """Returns the metrics of a step.

    Args:
      metrics, counts: what the step returned, fetched from the devices.
      speed: None if it is not known yet.
      tasks: task of each source, by its name, in the order in which batches number the sources.
      more: the other fields of StepRecord.
    """
    return StepRecord(
        step=done.position.step,
        phase=phase.name,
        loss=float(metrics.loss),
        gradient_norm=float(metrics.gradient_norm),
        parameter_norm=float(metrics.parameter_norm),
        weight=float(metrics.weight),
        learning_rate=done.learning_rate,
        source_loss=metrics.by_source(list(tasks)),
        task_loss=metrics.by_task(tasks) or None,
        input_wait_seconds=done.waited,
        fill=counts.tokens / (phase.rows_per_step * phase.context),
        tokens_per_second=speed.tokens_per_second if speed else None,
        mfu=speed.mfu if speed else None,
        **more,
    )
