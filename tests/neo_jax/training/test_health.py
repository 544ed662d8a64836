"""Bad steps: what is one, when there are too many, and that a run which skips or goes back ends in defined numbers."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from data_pipelines.planning.planner import InputState
from neo_jax import config
from neo_jax.runs.record import Position
from neo_jax.training.health import MIN_LOSSES, Health
from neo_jax.training.step import StepMetrics
from tests.neo_jax.training.running import metrics, run, write_config

RUN = config.Run(directory="run", checkpoint_every=1, heldout_every=0, heldout_rows=1)


def settings(**changes) -> config.Run:
    return dataclasses.replace(RUN, **changes)


def after(step: int, phase: int = 0) -> Position:
    return Position(phase, step, step, InputState(phase, 0, 0, ()))


def result(loss: float = 1.0, norm: float = 1.0, applied: bool = True, parameters: float = 1.0) -> StepMetrics:
    return StepMetrics(*(np.float32(x) for x in (loss, norm, parameters)), np.bool_(applied), *(np.float32(1),) * 3)


def filled(health: Health, losses: int = MIN_LOSSES, phase: int = 0) -> Health:
    for step in range(1, losses + 1):
        assert health.judge(result(loss=float(step)), after(step, phase)) == ""
    return health


def test_a_spike_is_measured_by_the_losses_before_the_last():
    health = filled(Health(settings(spike_factor=3.0), {}))
    assert health.loss_limit(0, MIN_LOSSES + 1) == math.inf  # while step 17 is dispatched, 16 may still be running: 15 are known
    assert health.loss_limit(0, MIN_LOSSES + 2) == 3 * (MIN_LOSSES + 1) / 2
    assert health.loss_limit(1, MIN_LOSSES + 2) == math.inf  # of the next phase, nothing is known
    assert filled(Health(settings(), {})).loss_limit(0, 99) == math.inf


def test_a_restart_knows_what_was_known():
    before = filled(Health(settings(spike_factor=3.0), {}), 100)
    before.judge(result(loss=math.nan, applied=False), after(101))
    again = Health(settings(spike_factor=3.0), json.loads(json.dumps(before.state())))
    assert again.loss_limit(0, 102) == before.loss_limit(0, 102) == 3 * 68.5  # median of 37 to 100: the last 64
    assert again.state() == json.loads(json.dumps(before.state()))


def test_bad_steps_are_counted_in_a_thousand_steps():
    health = Health(settings(bad_steps="skip", max_bad_steps=2), {})
    for step, ends in ((10, False), (20, False), (1015, False), (1016, True)):
        assert "nan" in health.judge(result(loss=math.nan, applied=False), after(step))
        assert bool(health.too_many()) is ends, step
    assert "max_bad_steps 2" in health.too_many()


def test_a_bad_step_is_no_measure_for_others():
    health = filled(Health(settings(spike_factor=2.0, bad_steps="skip"), {}), 30)
    limit = health.loss_limit(0, 32)
    assert "above 2 times" in health.judge(result(loss=1e6, applied=False), after(31))
    assert health.loss_limit(0, 33) == limit


def test_parameters_that_are_not_finite_cannot_be_skipped():
    for policy, ends in (("stop", True), ("skip", True), ("rewind", False)):
        health = Health(settings(bad_steps=policy), {})
        assert "updated parameters" in health.judge(result(parameters=math.inf), after(1))
        assert bool(health.too_many()) is ends


# Runs of a program in which the loss of one step is not a number, or a hundred times as large, whatever the parameters.
PROGRAM = """
import sys

import jax.numpy as jnp

from neo_jax.train import main
from neo_jax.training import trainer

step, factor = int(sys.argv.pop(1)), float(sys.argv.pop(1))
batches = trainer.Trainer._batches


def spoiled(self, phase, position, mesh):
    for number, (batch, after, waited) in enumerate(batches(self, phase, position, mesh), position.step + 1):
        if number == step:  # the loss is a weighted mean: one weight that is not finite spoils it, and its gradient
            weights = batch.loss_weights
            batch = batch._replace(loss_weights=weights * jnp.float32(factor))
        yield batch, after, waited


trainer.Trainer._batches = spoiled
sys.exit(main(sys.argv[1:]))
"""
ONE_PHASE = {"curriculum": ("text",), "phases__text__steps": 8, "run__checkpoint_every": 3, "run__heldout_every": 0}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("program") / "spoiled_run.py"
    path.write_text(PROGRAM)
    return str(path)


@pytest.mark.nightly
@pytest.mark.xdist_group("trainer")
def test_each_policy_in_a_run(corpus: pathlib.Path, tmp_path: pathlib.Path, program: str):
    """NaN at step 5 of 8, checkpoints at 3 and 6: stop ends there; skip and rewind go on, from step 4's and step 3's parameters."""
    whole = tmp_path / "whole"
    assert run(write_config(corpus, whole, **ONE_PHASE))[0] == 0
    expected = metrics(whole)
    found = {}
    for policy, code in (("stop", 70), ("skip", 0), ("rewind", 0)):
        directory = tmp_path / policy
        file = write_config(corpus, directory, **ONE_PHASE, run__bad_steps=policy)
        ended, output = run(file, program=(program, "5", "nan"))
        assert ended == code, output
        (incident,) = [json.loads(line) for line in (directory / "incidents.jsonl").read_text().splitlines()]
        assert incident["kind"] == {"stop": "stopped", "skip": "skipped", "rewind": "rewound"}[policy]
        assert incident["step"] == 5 and incident["samples"] and "Traceback" not in output
        found[policy] = metrics(directory)
        assert found[policy][:4] == expected[:4]
    assert [line["step"] for line in found["skip"]] == [line["step"] for line in found["rewind"]] == list(range(1, 9))
    assert math.isnan(found["skip"][4]["loss"])
    assert all(math.isfinite(line["loss"]) for line in (*found["skip"][5:], *found["rewind"][5:]))
    assert len({each[5]["loss"] for each in (found["skip"], found["rewind"], expected)}) == 3
    assert "went back to the parameters of step 3" in output

    # The stopped run goes on in its directory with another policy, to the numbers of a run that had it from the start.
    file = write_config(corpus, tmp_path / "stop", **ONE_PHASE, run__bad_steps="skip")
    ended, output = run(file, program=(program, "5", "nan"))
    assert ended == 0 and "resumed after step 3" in output, output
    assert metrics(tmp_path / "stop")[5:] == found["skip"][5:]
    assert "run.bad_steps: 'stop' -> 'skip'" in (tmp_path / "stop" / "config_changes.jsonl").read_text()
