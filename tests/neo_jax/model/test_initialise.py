"""A NEO from a Qwen3 equals the official conversion; its new parts are random; the Qwen3 alone reads text as the official one."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from data_pipelines.batch import Intervals, ModelInputs
from neo_jax.interop.config_fields import qwen3_model
from neo_jax.interop.load import to_ours
from neo_jax.interop.names import NEO_PREFIX, neo_table, qwen3_table
from neo_jax.model.backbone import build
from neo_jax.model.computation import Computation
from neo_jax.model.initialise import neo_from_qwen3
from neo_jax.sharding import make_mesh

FOLDER = pathlib.Path(__file__).parents[2] / "golden" / "qwen3_init"
PRE_BUFFER_LAYERS = json.loads((FOLDER / "neo.json").read_text())["extra_num_layers"]


@pytest.fixture(scope="module", autouse=True)
def mesh():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])), jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def model():
    path = FOLDER / "qwen3" / "config.json"
    return qwen3_model(json.loads(path.read_text()), path, PRE_BUFFER_LAYERS, patch_channels=16)


@pytest.fixture(scope="module")
def qwen3(model):
    tensors = load_file(FOLDER / "qwen3" / "model.safetensors")
    return {name: jnp.asarray(value) for name, value in to_ours(qwen3_table(model), tensors).items()}


@pytest.fixture(scope="module")
def neo(model, qwen3):
    return {name: np.asarray(value) for name, value in neo_from_qwen3(model, qwen3, seed=3).items()}


def test_equals_the_official_conversion(model, neo):
    tensors = load_file(FOLDER / "neo_expected.safetensors")
    # The recorded file leaves the pre-buffer out: read as a model of base layers alone, which start at layer 0.
    moved = {
        NEO_PREFIX + name.replace("layers.2.", "layers.0.").replace("layers.3.", "layers.1."): value for name, value in tensors.items()
    }
    table = neo_table(dataclasses.replace(model, pre_buffer_layers=0))
    expected = to_ours(tuple(entry for entry in table if entry.name.startswith(NEO_PREFIX)), moved)
    assert set(expected) == {name for name in neo if not name.startswith(("pre_buffer.", "patch_embedding."))}
    for name, value in expected.items():
        np.testing.assert_array_equal(neo[name], value, err_msg=name)


def test_random_parts(model, neo):
    random = {name: value for name, value in neo.items() if name.startswith(("pre_buffer.", "patch_embedding."))}
    assert {value.shape[0] for name, value in random.items() if name.startswith("pre_buffer.")} == {PRE_BUFFER_LAYERS}
    for name, value in random.items():
        if "norm" in name:
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:
            assert abs(value.mean()) < 0.002 and abs(value.std() - 0.02) < 0.002, name
    assert "pre_buffer.attention.k_hw" in random
    first, second = neo["pre_buffer.attention.q"]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1  # layers differ from each other


def test_qwen3_reads_text_as_the_official_one(model, qwen3):
    with np.load(FOLDER / "text.npz") as file:
        tokens, expected = file["input_ids"][None], file["qwen3_logits"]
    own = np.arange(tokens.shape[1], dtype=np.int32)
    positions = np.stack([own, 0 * own, 0 * own], -1)[None]
    no_pixels = np.zeros((1, 0, 3072), np.uint8), np.zeros((1, 0, 2), np.int32)
    inputs = ModelInputs(tokens, positions, Intervals(0 * own[None], own[None] + 1), np.full_like(tokens, -1), *no_pixels)

    @jax.jit
    def logits(parameters):
        backbone = build(model, "qwen3", parameters)
        return backbone.logits(backbone(inputs, Computation("qwen3")))

    np.testing.assert_allclose(logits(qwen3)[0], expected, atol=2e-4, rtol=0)
