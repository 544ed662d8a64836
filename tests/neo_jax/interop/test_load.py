"""Official tensors become parameters and come back: every golden model, on one device and on a mesh, whole or sharded in files."""

import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neo_jax.interop.config_fields import neo_model, qwen3_model, read_config
from neo_jax.interop.errors import WeightsError
from neo_jax.interop.load import load, to_official, to_ours
from neo_jax.interop.names import table_of
from neo_jax.interop.tensors import SINGLE, open_folder
from neo_jax.sharding import make_mesh

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
FOLDERS = [*(GOLDEN / f"model_{name}" for name in ("tied", "untied", "edges", "text_only")), GOLDEN / "qwen3_init" / "qwen3"]


def model_of(folder):
    path = folder / "config.json"
    values = read_config(path)
    if values["model_type"] == "qwen3":
        return qwen3_model(values, path, pre_buffer_layers=0, patch_channels=4), "qwen3"
    return neo_model(values, path), "neo"


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_there_and_back(folder):
    """Bit for bit, names, shapes and types included."""
    model, architecture = model_of(folder)
    official = load_file(folder / SINGLE)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        parameters = load(model, architecture, open_folder(folder))
        back = dict(to_official(table_of(model, architecture), parameters.items()))
    assert back.keys() == official.keys()
    for name, value in official.items():
        assert back[name].dtype == value.dtype and back[name].flags.c_contiguous
        np.testing.assert_array_equal(back[name], value, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_onto_a_mesh(folder, dtype):
    model, architecture = model_of(folder)
    expected = to_ours(table_of(model, architecture), load_file(folder / SINGLE))
    with jax.set_mesh(make_mesh(fsdp=4, tensor=2)):
        parameters = load(model, architecture, open_folder(folder), dtype)
    assert parameters.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(parameters[name]), value.astype(dtype), err_msg=name)
    assert {"fsdp", "tensor"} <= {axis for value in parameters.values() for axis in value.sharding.spec if isinstance(axis, str)}


def test_layers_of_several_types_get_the_one_that_holds_all(tmp_path):
    model, architecture = model_of(GOLDEN / "model_tied")
    tensors = {
        name: value if ".layers.3." in name else value.astype(ml_dtypes.bfloat16)
        for name, value in load_file(GOLDEN / "model_tied" / SINGLE).items()
    }
    save_file(tensors, tmp_path / SINGLE)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        parameters = load(model, architecture, open_folder(tmp_path))
    assert {parameters["base.mlp.up"].dtype, parameters["pre_buffer.mlp.up"].dtype} == {np.dtype("float32"), np.dtype("bfloat16")}
    layer = tensors["language_model.model.layers.3.mlp.up_proj.weight"]
    np.testing.assert_array_equal(parameters["base.mlp.up"][1], layer.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("language_model.model.norm.weight"), "has no tensor 'language_model.model.norm.weight'"),
        (lambda tensors: tensors.update(more=np.ones(2)), "1 tensors that the model has no place for, the first is 'more'"),
        (
            lambda tensors: tensors.update({"language_model.model.norm.weight": np.ones(3)}),
            r"has shape \(3,\), by config.json it is \(64,\)",
        ),
    ],
)
def test_other_tensors_are_named(tmp_path, change, message):
    model, architecture = model_of(GOLDEN / "model_tied")
    tensors = load_file(GOLDEN / "model_tied" / SINGLE)
    change(tensors)
    save_file(tensors, tmp_path / SINGLE)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])), pytest.raises(WeightsError, match=message):
        load(model, architecture, open_folder(tmp_path))
