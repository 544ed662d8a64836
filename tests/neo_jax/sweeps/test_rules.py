"""Rules decide by values at steps, not by when runs reach them."""

import math

import pytest

from neo_jax.runs.metrics import StepRecord
from neo_jax.sweeps.rules import Contestant, Halving, Threshold, decide, value_at


def run(name: str, setting: str, step: int, *values: float | None, over: bool = False, failed: bool = False) -> Contestant:
    """A run with values at steps 10, 20, ..."""
    return Contestant(name, setting, step, over, failed, lambda step: values[step // 10 - 1])


def record(step: int, loss: float, **heldout: float) -> StepRecord:
    return StepRecord(step=step, phase="a", tokens=step, loss=loss, heldout_loss=heldout or None)


def test_no_rule_decides_nothing():
    assert decide(None, [run("a", "x", 99, 1.0)]).ended == {}


def test_a_threshold_waits_for_its_step():
    rule = Threshold(step=10, above=2.0)
    runs = [
        run("early", "x", 9, 3.0),
        run("bad", "x", 10, 3.0),
        run("good", "x", 30, 2.0),
        run("nan", "x", 10, math.nan),
        run("done", "x", 30, 3.0, over=True),
    ]
    ended = decide(rule, runs).ended
    assert ended.keys() == {"bad", "nan"}
    assert ended["bad"] == "heldout 3 at step 10, above 2"


def test_halving_waits_until_all_have_reached_the_step():
    runs = [run("a", "x", 12, 1.0), run("b", "y", 7, None)]
    decision = decide(Halving(steps=(10,)), runs)
    assert (decision.ended, decision.waiting) == ({}, {"a"})


def test_halving_ranks_settings_by_the_mean_over_their_seeds():
    """The best single run belongs to the worse setting."""
    runs = [run("a0", "x", 10, 1.0), run("a1", "x", 10, 5.0), run("b0", "y", 10, 2.0), run("b1", "y", 11, 2.0)]
    decision = decide(Halving(steps=(10, 20)), runs)
    assert decision.ended.keys() == {"a0", "a1"}
    assert decision.waiting == set()


def test_halving_rounds_up_and_goes_on_at_the_next_step():
    runs = [run(name, name, 20, value, value) for name, value in zip("abcde", (5.0, 4.0, 3.0, 2.0, 1.0), strict=True)]
    assert decide(Halving(steps=(10,)), runs).ended.keys() == {"a", "b"}
    assert decide(Halving(steps=(10, 20)), runs).ended.keys() == {"a", "b", "c"}
    assert decide(Halving(steps=(10, 20), keep=0.2), runs).ended.keys() == {"a", "b", "c", "d"}


def test_failed_runs_rank_last_and_hold_up_nobody():
    runs = [run("a", "x", 3, None, failed=True), run("b", "y", 10, 9.0), run("c", "z", 10, 8.0)]
    assert decide(Halving(steps=(10,), keep=0.6), runs).ended.keys() == {"a"}


def test_a_finished_run_that_was_shorter_counts_as_having_reached_the_step():
    assert decide(Halving(steps=(10,)), [run("a", "x", 5, 1.0, over=True), run("b", "y", 10, 2.0)]).ended.keys() == {"b"}


def test_values_of_quantities():
    records = [record(step, float(step)) for step in range(1, 21)] + [record(21, 0.5, a=1.0, b=3.0), record(30, 0.4, a=0.5, b=1.0)]
    assert value_at(records, "loss", 20) == pytest.approx(sum(range(11, 21)) / 10)
    assert value_at(records, "heldout", 20) is None
    assert value_at(records, "heldout", 29) == 2.0
    assert value_at(records, "heldout/b", 99) == 1.0
    assert value_at(records, "heldout/none", 99) is None
    assert value_at([], "loss", 1) is None
