"""Rules that end runs of a sweep early. A rule reads the metrics that a run has at given steps, not when it reached them, so that its decisions do
not depend on the speed of the machine or on how many runs go on at once.

Quantities, of which less is better: "heldout", the mean over held-out sources at the last measurement; "heldout/SOURCE"; "loss", the training loss,
mean of the last SMOOTHED log lines.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from neo_jax.runs.metrics import StepRecord

SMOOTHED = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold:
    """Ends a run whose quantity at `step` is above a limit or not a number."""

    step: int
    above: float
    quantity: str = "heldout"

    def problems(self) -> list[str]:
        return [*quantity_problems(self.quantity, (self.step,)), *([] if math.isfinite(self.above) else ["above must be a finite number"])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halving:
    """Successive halving (Jamieson and Talwalkar 2016): at each of `steps`, the best share of the settings goes on.

    A run that has reached such a step waits, saved, until all have; settings are ranked by the mean over their seeds, and all seeds of a setting go
    on or end together. A run that failed ranks last.

    Attributes:
      steps: ascending.
      keep: share that goes on, rounded up: at least one setting.
      quantity: as above.
    """

    steps: tuple[int, ...]
    keep: float = 0.5
    quantity: str = "heldout"

    def problems(self) -> list[str]:
        share = [] if 0 < self.keep < 1 else [f"keep is {self.keep}, must be between 0 and 1"]
        order = [] if self.steps and list(self.steps) == sorted(set(self.steps)) else [f"steps are {self.steps}, must ascend"]
        return [*quantity_problems(self.quantity, self.steps), *share, *order]


Rule = Threshold | Halving


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A run as a rule sees it.

    Attributes:
      name, setting: of the run, and of its settings without the seed.
      step: last step that it has logged.
      over: whether it has finished, or was ended by the rule.
      failed: whether it failed: it has no value.
      value: the quantity at a step.
    """

    name: str
    setting: str
    step: int
    over: bool
    failed: bool
    value: Callable[[int], float | None]


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a rule says now: runs to end, by name with the reason; and runs that wait for others."""

    ended: dict[str, str] = dataclasses.field(default_factory=dict)
    waiting: frozenset[str] = frozenset()


def decide(rule: Rule | None, runs: Sequence[Contestant]) -> Decision:
    """Applies a rule to the runs of a sweep, all of them at each call."""
    if isinstance(rule, Threshold):
        return Decision({run.name: reason for run in runs if (reason := _above(rule, run))})
    return _halve(rule, runs) if rule else Decision()


def value_at(records: Sequence[StepRecord], quantity: str, step: int) -> float | None:
    """Returns a quantity as it was at a step; None if it was not measured up to there."""
    before = [record for record in records if record.step <= step]
    if quantity == "loss":
        losses = [record.loss for record in before[-SMOOTHED:]]
        return math.fsum(losses) / len(losses) if losses else None
    measured = next((record.heldout_loss for record in reversed(before) if record.heldout_loss), None)
    if not measured:
        return None
    _, _, source = quantity.partition("/")
    return measured.get(source) if source else math.fsum(measured.values()) / len(measured)


def _above(rule: Threshold, run: Contestant) -> str | None:
    if run.over or run.failed or run.step < rule.step:
        return None
    value = run.value(rule.step)
    if value is None or value <= rule.above:
        return None
    return f"{rule.quantity} {value:.4g} at step {rule.step}, above {rule.above:g}"


def _halve(rule: Halving, runs: Sequence[Contestant]) -> Decision:
    ended: dict[str, str] = {}
    alive = list(runs)
    for step in rule.steps:
        reached = [run for run in alive if run.over or run.failed or run.step >= step]
        if len(reached) < len(alive):
            return Decision(ended, frozenset(run.name for run in reached))
        settings: dict[str, list[float]] = {}
        for run in alive:
            value = None if run.failed else run.value(step)
            settings.setdefault(run.setting, []).append(math.inf if value is None or math.isnan(value) else value)
        means = {setting: math.fsum(values) / len(values) for setting, values in settings.items()}
        ranked = sorted(means, key=lambda setting: (means[setting], setting))
        kept = ranked[: math.ceil(rule.keep * len(ranked))]
        for run in alive:
            if run.setting not in kept:
                place = 1 + ranked.index(run.setting)
                ended[run.name] = (
                    f"{rule.quantity} {means[run.setting]:.4g} at step {step}, place {place} of {len(ranked)}; {len(kept)} go on"
                )
        alive = [run for run in alive if run.setting in kept]
    return Decision(ended)


def quantity_problems(quantity: str, steps: Sequence[int]) -> list[str]:
    """Returns a sentence for each problem of a quantity and of steps at which it is read."""
    known = quantity in ("loss", "heldout") or (quantity.startswith("heldout/") and quantity != "heldout/")
    wrong = [] if known else [f'quantity is {quantity!r}, must be "loss", "heldout" or "heldout/SOURCE"']
    return wrong + [f"step {step!r} must be a whole number of at least 1" for step in steps if not (isinstance(step, int) and step >= 1)]
