"""Variants of the model for ablations: positions and attended keys equal their definitions, token by token, whatever the mesh."""

import jax
import numpy as np
import pytest

from data_pipelines.batch import Intervals, map_arrays
from neo_jax.model.computation import Computation
from neo_jax.model.variants import image_intervals, key_places, varied
from neo_jax.sharding import make_mesh, to_devices
from neo_jax.training.step import weighted_losses
from tests.neo_jax.tiny_model import arranged, batch, model, on_mesh, parameters


@pytest.fixture
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


def images(row):
    """(first, end) of each image of a row, from the mixed mask: its tokens see its end."""
    hi = row.intervals.hi
    return sorted({(int(np.flatnonzero((hi == end) & (row.visual_slot >= 0))[0]), int(end)) for end in hi[row.visual_slot >= 0]})


def test_positions_and_mask_of_packed_rows(one_device):
    rows = batch(4).inputs
    places = key_places(64, None)
    settings = model(mask="causal", positions="one_dimensional")
    positions, intervals = jax.tree.map(
        np.asarray, varied(settings, rows.positions, jax.tree.map(jax.numpy.asarray, rows.intervals), places)
    )
    np.testing.assert_array_equal(intervals.hi, np.broadcast_to(np.arange(64) + 1, (4, 64)))
    np.testing.assert_array_equal(intervals.lo, rows.intervals.lo)
    np.testing.assert_array_equal(positions[..., 0], np.arange(64) - rows.intervals.lo)
    assert not positions[..., 1:].any()
    assert (rows.intervals.hi > intervals.hi).sum() > 40 and (rows.positions[..., 0] < positions[..., 0]).sum() > 40  # of images


@pytest.mark.parametrize("mask", ["mixed", "causal"])
def test_an_encoder_attends_within_each_image(mask, one_device):
    batches = to_devices(batch(4).inputs)
    found = image_intervals(batches.positions, batches.intervals, batches.visual_slot >= 0, key_places(64, None), mask)
    for number in range(4):
        row = map_arrays(lambda x, number=number: np.asarray(x)[number], batches)
        lo, hi = np.arange(64), np.arange(64) + 1
        for first, end in images(row):
            lo[first:end] = first
            hi[first:end] = end if mask == "mixed" else np.arange(first, end) + 1
        np.testing.assert_array_equal(np.asarray(found.lo)[number], lo)
        np.testing.assert_array_equal(np.asarray(found.hi)[number], hi)
    assert len(images(row)) == 1 and (np.diff(found.lo) >= 0).all()


def loss_of(settings, axes, rows):
    mesh = make_mesh(**axes) if axes else make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        placed = on_mesh(settings, "neo", parameters(settings, "neo", seed=1, scale=0.2))
        sums = jax.jit(lambda values, rows: weighted_losses(settings, Computation(), 3, values, rows))(placed, to_devices(arranged(rows)))
        return float(sums.loss / sums.weight)


def test_shards_of_rows_give_the_same_loss():
    settings = model(mask="causal", positions="one_dimensional", pre_buffer_layers=0, base_layers=1)
    whole = loss_of(settings, {}, batch(4))
    assert loss_of(settings, {"context": 4, "data": 2}, batch(4)) == pytest.approx(whole, rel=1e-5)
    assert loss_of(model(pre_buffer_layers=0, base_layers=1), {}, batch(4)) != pytest.approx(whole, rel=1e-4)


def test_text_does_not_pass_the_encoder(one_device):
    """Without images the layers of an encoder do nothing; with images, the other tokens of a row do not depend on which ones stand before it."""
    text = batch(4, pixels=False)
    without = model(pre_buffer_layers=0)
    values = parameters(model(), "neo", seed=1, scale=0.2)

    def loss(settings, rows):
        placed = {name: value for name, value in values.items() if settings.pre_buffer_layers or not name.startswith("pre_buffer")}
        sums = jax.jit(lambda values, rows: weighted_losses(settings, Computation(), 3, values, rows))(
            on_mesh(settings, "neo", placed), to_devices(rows)
        )
        return float(sums.loss / sums.weight)

    assert loss(model(pre_buffer="encoder"), text) == loss(without, text) != loss(model(), text)
    assert loss(model(pre_buffer="encoder"), batch(4)) != loss(without, batch(4))


def test_text_alone_is_the_same_in_all_variants(one_device):
    """The first phase, of text, is shared by ablations of mask and positions."""
    places = key_places(64, None)
    rows = batch(4, pixels=False).inputs
    intervals = Intervals(*map(jax.numpy.asarray, rows.intervals))
    positions, changed = varied(model(mask="causal", positions="one_dimensional"), rows.positions, intervals, places)
    real = rows.intervals.hi - rows.intervals.lo > 1
    np.testing.assert_array_equal(np.asarray(positions)[real], rows.positions[real])
    np.testing.assert_array_equal(np.asarray(changed.hi), rows.intervals.hi)
