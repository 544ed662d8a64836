"""The model as declared, rematerialised and sharded: the same numbers whatever the policy and the mesh."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.batch import map_arrays
from data_pipelines.loading.shards import arrange
from neo_jax.config import Config
from neo_jax.config.phase import REMAT_POLICIES
from neo_jax.model.backbone import REMATERIALISATION, abstract, build
from neo_jax.model.computation import Computation
from neo_jax.sharding import make_mesh, to_devices
from neo_jax.training.step import weighted_losses
from tests.neo_jax.programs import equations
from tests.neo_jax.tiny_model import arranged, batch, model, on_mesh, parameters

# Base layers alone: the pre-buffer is the same layer again, and twice the compile time. Eight heads of keys divide by every mesh.
BASE_ALONE = model(pre_buffer_layers=0, heads=16, kv_heads=8, head_dim=4)


@pytest.fixture
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


@functools.cache
def loss_and_gradients(settings, remat, unroll=1):
    def loss(parameters, rows):
        sums = weighted_losses(settings, Computation(remat=remat, unroll=unroll), 3, parameters, rows)
        return sums.loss / sums.weight

    return jax.jit(jax.value_and_grad(loss))


@functools.cache
def results(remat="none", unroll=1, **axes) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of eight packed rows on a mesh of these axes; of one device without any."""
    mesh = make_mesh(**axes) if axes else make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        placed = on_mesh(BASE_ALONE, "neo", parameters(BASE_ALONE, "neo", seed=1))
        loss, gradients = loss_and_gradients(BASE_ALONE, remat, unroll)(placed, to_devices(arranged(batch(8))))
        assert {name: value.sharding for name, value in gradients.items()} == {name: value.sharding for name, value in placed.items()}
        return float(loss), jax.tree.map(np.asarray, gradients)


@pytest.mark.parametrize("shape", [{}, {"tied": False}, {"pre_buffer_layers": 0}, {"heads": 6, "base_layers": 3}])
def test_parameter_count_of_tiny_models(shape, one_device):
    settings = model(**shape)
    assert sum(value.size for value in abstract(settings, "neo").values()) == settings.parameters()


@pytest.mark.parametrize("name", ["neo_ov_2b", "neo_ov_9b"])
def test_parameter_count_of_the_real_models(name, one_device):
    settings = Config.from_config_dict(importlib.import_module(f"configs.{name}").get_config()).model
    shapes = abstract(settings, "neo")
    assert sum(value.size for value in shapes.values()) == settings.parameters()
    assert all(value.dtype == jnp.float32 for value in shapes.values())


def test_architectures_and_stacks(one_device):
    def parts(settings, architecture):
        return {name.split(".")[0] for name in abstract(settings, architecture)}

    assert parts(model(), "neo") == {"embedding", "patch_embedding", "pre_buffer", "base", "final_norm"}
    assert parts(model(tied=False), "neo") - parts(model(), "neo") == {"output"}
    assert parts(model(pre_buffer_layers=0), "neo") == {"embedding", "patch_embedding", "base", "final_norm"}
    assert parts(model(), "qwen3") == {"embedding", "base", "final_norm"}
    assert not any("hw" in name or "norm_h" in name or "norm_w" in name for name in abstract(model(), "qwen3"))


def test_program_does_not_grow_with_depth(one_device):
    rows = to_devices(batch(2))

    def size(layers):
        settings = model(base_layers=layers, pre_buffer_layers=layers)
        gradients = loss_and_gradients(settings, "full")
        return len(equations(gradients, abstract(settings, "neo"), rows))

    assert size(2) == size(6) > 500


def test_policies_have_names():
    assert set(REMAT_POLICIES) == {"none", *REMATERIALISATION}


def test_rematerialisation_keeps_less(one_device):
    rows = to_devices(batch(2))

    def kept(policy):
        """Bytes that the backward pass of the layers is handed."""

        def pullback(values):
            return jax.vjp(lambda values: build(BASE_ALONE, "neo", values)(rows.inputs, Computation(remat=policy)), values)[1]

        return sum(value.size * value.dtype.itemsize for value in jax.tree.leaves(jax.eval_shape(pullback, abstract(BASE_ALONE, "neo"))))

    assert kept("full") < kept("dots") < kept("none")


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_shards_cut_images(shards):
    """What the meshes below are tested with: in every row, an image has tokens on several shards."""
    rows = batch(8)
    for row in range(8):
        one = map_arrays(lambda array, row=row: array[row], rows)
        places, inputs = arrange(one, shards).inputs.pieces, one.inputs
        shard = np.repeat(places, 64 // len(places)) // (len(places) // shards)
        inside = np.flatnonzero((inputs.visual_slot >= 0) & (inputs.intervals.hi > np.arange(64) + 1))  # the next token is of its image
        assert (shard[inside] != shard[inside + 1]).any(), row


@pytest.mark.parametrize(
    ("axes", "policy"),
    [
        pytest.param({"data": 8}, "full", marks=pytest.mark.nightly),
        ({"fsdp": 8}, "dots"),
        ({"context": 8}, "none"),
        ({"tensor": 8}, "none"),
        pytest.param({"data": 2, "fsdp": 4}, "attention", marks=pytest.mark.nightly),
        pytest.param({"data": 2, "context": 4}, "none", marks=pytest.mark.nightly),
        pytest.param({"data": 2, "tensor": 4}, "none", marks=pytest.mark.nightly),
        pytest.param({"fsdp": 2, "context": 4}, "full", marks=pytest.mark.nightly),
        pytest.param({"fsdp": 4, "tensor": 2}, "none", marks=pytest.mark.nightly),
        pytest.param({"context": 4, "tensor": 2}, "attention", marks=pytest.mark.nightly),
        ({"fsdp": 2, "context": 2, "tensor": 2}, "full"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_same_numbers_on_every_mesh_with_every_policy(axes, policy):
    """Against one device without rematerialisation."""
    agrees_with_one_device(*results(policy, **axes))


@pytest.mark.parametrize(
    ("axes", "policy"),
    [({}, "dots"), pytest.param({"fsdp": 2, "context": 2, "tensor": 2}, "full", marks=pytest.mark.nightly)],
    ids=["one-device", "mesh"],
)
def test_same_numbers_with_two_layers_an_iteration(axes, policy):
    agrees_with_one_device(*results(policy, unroll=2, **axes))


def agrees_with_one_device(loss, gradients):
    expected_loss, expected = results()
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, value in expected.items():
        assert np.abs(value).max() > 0, name
        assert np.abs(gradients[name] - value).max() <= 1e-4 * np.abs(value).max(), name
