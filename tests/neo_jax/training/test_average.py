"""Averaged parameters: the numbers of their definition, through phases and checkpoints, and as a place of a run."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from neo_jax import config
from neo_jax.model.computation import Computation
from neo_jax.model.freezing import split
from neo_jax.places import open_place
from neo_jax.runs.reading import CheckpointError
from neo_jax.sharding import make_mesh, to_devices
from neo_jax.training.curriculum import first_average, next_state
from neo_jax.training.optimizer import initial_moments
from neo_jax.training.qk_clip import clip_qk, logit_bounds
from neo_jax.training.step import TrainState, make_train_step
from tests.neo_jax.saved_run import saved_run
from tests.neo_jax.tiny_model import batch, model, on_mesh, one_pass, parameters
from tests.neo_jax.training.tiny_run import tiny_config

MODEL = model()
OPTIMIZER = config.Optimizer(average=0.75)
RATE = np.float32(0.02)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


def begun(what: str = "all", optimizer: config.Optimizer = OPTIMIZER) -> TrainState:
    trainable, frozen = split(on_mesh(MODEL, "qwen3", parameters(MODEL, "qwen3", seed=2)), what)
    return TrainState(trainable, frozen, initial_moments(optimizer, trainable), first_average(optimizer, trainable))


@functools.cache
def step(optimizer: config.Optimizer):
    rows = batch(4, pixels=False)
    rows.loss_weights[1] = 0
    batches = to_devices(one_pass(rows), accumulation_axis=True)
    made = make_train_step(MODEL, Computation("qwen3"), optimizer, 3)
    return lambda state, *limits: made(state, batches, RATE, *limits)


def test_the_average_is_that_of_its_definition():
    state = begun("base.*,!base.mlp.*")
    assert set(state.average) == set(state.trainable) and not any("mlp." in name for name in state.average)
    expected = {name: np.asarray(value) for name, value in state.trainable.items()}
    for _ in range(3):
        state, _ = step(OPTIMIZER)(state)
        expected = {name: 0.75 * old + 0.25 * np.asarray(state.trainable[name]) for name, old in expected.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(state.average[name], value, rtol=1e-6, atol=1e-7)
        assert np.abs(state.average[name] - state.trainable[name]).max() > 1e-4


def test_a_bad_step_changes_no_average():
    before = jax.device_get(begun())
    after, metrics = step(OPTIMIZER)(begun(), np.float32(0.01))  # no loss is so low
    assert not metrics.applied
    for part in ("trainable", "moments", "average"):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(getattr(after, part)), getattr(before, part))
    assert step(OPTIMIZER)(begun(), np.float32(1e6))[1].applied


def settings_with_average(corpus: pathlib.Path, directory: pathlib.Path, **changes) -> config.Config:
    settings = tiny_config(corpus, directory)
    return dataclasses.replace(settings, optimizer=dataclasses.replace(settings.optimizer, average=0.5, **changes))


def test_what_both_phases_train_keeps_its_average(corpus: pathlib.Path, tmp_path: pathlib.Path):
    settings = settings_with_average(corpus, tmp_path)
    _, pretrain, mid = settings.phases
    trainable, frozen = split(on_mesh(settings.model, "neo", parameters(settings.model, "neo", seed=1)), pretrain.trains)
    average = {name: 2 * value for name, value in trainable.items()}
    moments = initial_moments(settings.optimizer, trainable)
    kept = {name: np.asarray(value) for name, value in average.items()}
    after = next_state(settings, TrainState(trainable, frozen, moments, average), pretrain, mid)
    assert set(after.average) == set(after.trainable) > set(kept)
    for name, value in after.average.items():
        np.testing.assert_array_equal(value, kept.get(name, np.asarray(after.trainable[name])))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_place_of_a_run_names_its_average(corpus: pathlib.Path, tmp_path: pathlib.Path, dtype: str):
    settings = settings_with_average(corpus, tmp_path / "run", parameter_dtype=dtype)
    settings = dataclasses.replace(settings, phases=settings.phases[1:2])

    def change(state: TrainState) -> TrainState:
        return dataclasses.replace(state, average={name: value + 1 for name, value in state.average.items()})

    saved_run(tmp_path / "run", settings, change=change)
    plain, averaged = (open_place(f"{tmp_path / 'run'}{which}") for which in (":pretrain", ":pretrain:average"))
    assert plain.identity() != averaged.identity()
    trained = set(split(plain.parameters(), "new")[0])
    others = averaged.parameters()
    for name, value in plain.parameters().items():
        assert others[name].dtype == value.dtype == dtype
        expected = np.asarray(value.astype(np.float32)) + (name in trained)
        np.testing.assert_allclose(others[name].astype(np.float32), expected, rtol=1e-2 if dtype == "bfloat16" else 1e-6)


def test_a_run_without_average_has_none(corpus: pathlib.Path, tmp_path: pathlib.Path):
    saved_run(tmp_path / "run", tiny_config(corpus, tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"optimizer\.average is 0"):
        open_place(f"{tmp_path / 'run'}:average")


def test_qk_clip_bounds_the_logits():
    """Random queries and keys of the allowed lengths never pass the bound, and after clipping no layer allows more than the limit."""
    values = {name: 3 * value for name, value in parameters(MODEL, "neo", seed=2).items()}
    bounds = np.asarray(logit_bounds(values, "base"))
    rng = np.random.default_rng(0)
    for layer in range(2):
        largest = 0.0
        for q_norm, k_norm in (("q_norm", "k_norm"), ("q_norm_h", "k_norm_h"), ("q_norm_w", "k_norm_w")):
            q, k = (values[f"base.attention.{name}"][layer] for name in (q_norm, k_norm))
            x = rng.standard_normal((2000, len(q)))
            x *= np.sqrt(len(q)) / np.linalg.norm(x, axis=1, keepdims=True)
            largest += np.abs((x * q * x * k).sum(axis=1)).max()
        assert 0.3 * bounds[layer] < largest * 8**-0.5 <= bounds[layer]
    for what in ("all", "all,!base.attention.k_norm*", "new"):
        trainable, frozen = split({name: jax.numpy.asarray(value) for name, value in values.items()}, what)
        clipped = clip_qk(trainable, frozen, 5.0)
        assert np.asarray(logit_bounds(clipped | frozen, "pre_buffer")) == pytest.approx([5.0, 5.0], rel=1e-4)
        changed = {name.split(".")[-1] for name, value in clipped.items() if not np.array_equal(value, trainable[name])}
        assert changed and all("_norm" in name and name[0] in "qk" for name in changed)
        if what == "all":
            assert np.asarray(logit_bounds(clipped, "base")) == pytest.approx([5.0, 5.0], rel=1e-4)
    untouched = clip_qk(*split({name: jax.numpy.asarray(value) for name, value in values.items()}, "all"), 1e9)
    assert all(np.array_equal(value, values[name]) for name, value in untouched.items())


def test_a_step_clips():
    optimizer = config.Optimizer(qk_clip=1.0)
    state, _ = step(optimizer)(begun(optimizer=optimizer))
    assert np.asarray(logit_bounds(state.trainable, "base")) == pytest.approx([1.0, 1.0], rel=1e-4)
    assert np.asarray(logit_bounds(begun().trainable, "base")).min() > 1.5
