"""The step's loss is one weighted mean over the whole global batch, however rows are divided among passes and devices."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from data_pipelines.batch import Batch
from neo_jax import config
from neo_jax.model.backbone import build
from neo_jax.model.computation import Computation
from neo_jax.sharding import make_mesh, to_devices
from neo_jax.training.inputs import accumulated
from neo_jax.training.optimizer import initial_moments
from neo_jax.training.step import StepMetrics, TrainState, make_heldout_step, make_train_step
from tests.neo_jax.programs import equations
from tests.neo_jax.tiny_model import batch, model, on_mesh, one_pass, parameters

MODEL = model()
COMPUTATION = Computation("qwen3")  # the base alone on text: the quickest to compile
OPTIMIZER = config.Optimizer(weight_decay=0.1, clip_norm=0.5)
RATE = np.float32(0.02)
SOURCES = 4  # the last one has no row
EIGHT = {"data": 2, "fsdp": 2, "context": 2}


@functools.cache
def rows() -> Batch:
    """Eight rows with numbers of labels as unequal as 1 : 60; one row has none."""
    text = batch(8, pixels=False, seed=4)
    text.loss_weights[1] = 0
    text.loss_weights[2, 5:] = 0
    text.loss_weights[3] *= 7
    return text


@functools.cache
def before() -> dict[str, np.ndarray]:
    return parameters(MODEL, "qwen3", seed=2)


def mesh_of(axes: dict[str, int]) -> jax.sharding.Mesh:
    return make_mesh(**axes) if axes else make_mesh(devices=jax.devices()[:1])


@functools.cache
def after_one_step(accumulate: int, z_loss: float = 0.0, **axes: int) -> tuple[StepMetrics, dict[str, np.ndarray]]:
    """Metrics and parameters after one step over all rows."""
    optimizer = dataclasses.replace(OPTIMIZER, z_loss=z_loss)
    with jax.set_mesh(mesh_of(axes)), jax.default_matmul_precision("highest"):
        trainable = on_mesh(MODEL, "qwen3", before())
        state = TrainState(trainable, {}, jax.jit(lambda x: initial_moments(OPTIMIZER, x))(trainable))
        passes = accumulated(rows(), accumulate)
        step = make_train_step(MODEL, COMPUTATION, optimizer, SOURCES)
        state, metrics = step(state, to_devices(passes, accumulation_axis=True), RATE)
        return jax.device_get(metrics), jax.device_get(state.trainable)


@functools.cache
def expected_losses() -> np.ndarray:
    """[8, L]: cross-entropies from full logits."""
    with jax.set_mesh(mesh_of({})), jax.default_matmul_precision("highest"):

        @jax.jit
        def losses(values, data):
            backbone = build(MODEL, "qwen3", values)
            scores = jax.nn.log_softmax(backbone.logits(backbone(data.inputs, COMPUTATION)))
            return -(scores * jax.nn.one_hot(data.targets, MODEL.vocabulary)).sum(-1)

        return np.asarray(losses(on_mesh(MODEL, "qwen3", before()), to_devices(rows())), np.float64)


def test_labels_are_unequal():
    weights = rows().loss_weights.sum(axis=1)
    assert weights[1] == 0 and weights.max() > 20 * weights[weights > 0].min()


def test_loss_is_the_weighted_mean_over_all_rows():
    losses, weights = expected_losses(), rows().loss_weights.astype(np.float64)
    mean = (losses * weights).sum() / weights.sum()
    metrics, _ = after_one_step(1)
    assert metrics.loss == pytest.approx(mean, rel=1e-6)
    with np.errstate(invalid="ignore"):
        of_rows = (losses * weights).sum(axis=1) / weights.sum(axis=1)
    assert abs(np.nanmean(of_rows) - mean) > 1e-3 * mean  # the mean of the rows' means is another number


@pytest.mark.parametrize(("accumulate", "axes"), [(4, {}), (2, EIGHT)], ids=["4", "2 on 8"])
def test_accumulation_and_devices_change_nothing(accumulate, axes):
    metrics, updated = after_one_step(accumulate, **axes)
    expected_metrics, expected = after_one_step(1)
    for name in ("loss", "gradient_norm", "source_loss", "source_weight"):
        np.testing.assert_allclose(getattr(metrics, name), getattr(expected_metrics, name), rtol=1e-5, err_msg=name)
    assert expected_metrics.gradient_norm > OPTIMIZER.clip_norm  # clipping acts on the whole batch's gradient
    for name, value in expected.items():
        moved = np.abs(value - before()[name]).max()
        assert moved > 0.5 * RATE, name
        # Adam's first step divides a gradient by its own size: where it is almost zero, rounding decides.
        differs = np.abs(updated[name] - value) > 1e-3 * moved
        assert differs.mean() < 0.005, name


def test_z_loss_is_in_the_gradient_and_not_in_the_loss():
    plain, with_term = after_one_step(1)[0], after_one_step(1, z_loss=0.1)[0]
    assert with_term.loss == plain.loss
    assert abs(with_term.gradient_norm - plain.gradient_norm) > 0.01 * plain.gradient_norm


def test_sums_of_each_source():
    losses, weights, source = expected_losses(), rows().loss_weights.astype(np.float64), rows().source
    metrics, _ = after_one_step(1)
    for number in range(SOURCES):
        mine = source == number
        assert metrics.source_weight[number] == pytest.approx(weights[mine].sum(), rel=1e-6)
        assert metrics.source_loss[number] == pytest.approx((losses * weights)[mine].sum(), rel=1e-5)
    assert metrics.source_weight[3] == 0 and (metrics.source_weight[:3] > 0).all()
    assert metrics.source_loss.sum() / metrics.source_weight.sum() == pytest.approx(metrics.loss, rel=1e-6)


def test_heldout_sums():
    with jax.set_mesh(mesh_of({})), jax.default_matmul_precision("highest"):
        placed = to_devices(one_pass(rows()), accumulation_axis=True)
        sums = jax.device_get(make_heldout_step(MODEL, COMPUTATION, SOURCES)(on_mesh(MODEL, "qwen3", before()), placed))
    metrics, _ = after_one_step(1)
    assert sums.loss / sums.weight == pytest.approx(metrics.loss, rel=1e-6)
    np.testing.assert_allclose(sums.source_loss, metrics.source_loss, rtol=1e-5)


def test_a_step_without_a_label_changes_nothing():
    with jax.set_mesh(mesh_of({})):
        trainable = on_mesh(MODEL, "qwen3", before())
        state = TrainState(trainable, {}, jax.jit(lambda x: initial_moments(OPTIMIZER, x))(trainable))
        passes = one_pass(rows()._replace(loss_weights=np.zeros_like(rows().loss_weights)))
        state, metrics = make_train_step(MODEL, COMPUTATION, OPTIMIZER, SOURCES)(state, to_devices(passes, accumulation_axis=True), RATE)
    assert metrics.loss == metrics.gradient_norm == metrics.weight == 0
    for name, value in before().items():
        np.testing.assert_array_equal(state.trainable[name], value)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(state.moments))


def test_debug_checks_are_part_of_the_programs_identity():
    """A step that was traced without them is not used where they are asked for."""
    checked = dataclasses.replace(COMPUTATION, check_intervals=True)
    plain, checking = (make_train_step(MODEL, each, OPTIMIZER, SOURCES) for each in (COMPUTATION, checked))
    assert plain is not checking and make_train_step(MODEL, checked, OPTIMIZER, SOURCES) is checking
    with jax.set_mesh(mesh_of({})):
        trainable = on_mesh(MODEL, "qwen3", before())
        state = TrainState(trainable, {}, jax.jit(lambda x: initial_moments(OPTIMIZER, x))(trainable))
        passes = to_devices(one_pass(rows()), accumulation_axis=True)
        names = [{each.primitive.name for each in equations(step, state, passes, RATE)} for step in (plain, checking)]
    assert "debug_callback" not in names[0] and "debug_callback" in names[1]


def test_losses_by_task_are_weighted_over_their_sources():
    sums = np.array([6.0, 2.0, 5.0, 0.0], np.float32), np.array([3.0, 1.0, 2.0, 0.0], np.float32)
    metrics = StepMetrics(*(np.float32(1),) * 3, np.bool_(True), np.float32(6), *sums)
    assert metrics.by_task({"a": "vqa", "b": "vqa", "c": "", "d": "text"}) == {"vqa": 2.0}
    assert metrics.by_task({"a": "vqa", "b": "caption", "c": "vqa", "d": ""}) == {"vqa": 11 / 5, "caption": 2.0}
    assert metrics.by_source(["a", "b", "c", "d"]) == {"a": 2.0, "b": 2.0, "c": 2.5}
