"""Safetensors files of a checkpoint folder: read whole, or refused by one sentence that names the file."""

import json
import pathlib

import ml_dtypes  # noqa: F401 (numpy then knows bfloat16)
import numpy as np
import pytest
from safetensors.numpy import save_file

from neo_jax.interop import tensors as module
from neo_jax.interop.errors import WeightsError
from neo_jax.interop.tensors import INDEX, SINGLE, StoredTensor, open_file, open_folder

CASES = pathlib.Path(__file__).parent / "cases"
PARTS = {"a.safetensors": {"one": np.ones(3, np.float32)}, "b.safetensors": {"two": np.zeros((2, 2), np.float32)}}
MAP = {name: file for file, tensors in PARTS.items() for name in tensors}


@pytest.fixture
def folder(tmp_path):
    for file, tensors in PARTS.items():
        save_file(tensors, tmp_path / file)
    write_index(tmp_path, MAP)
    return tmp_path


def write_index(folder: pathlib.Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_read(folder):
    assert {name: tensor.shape for name, tensor in open_folder(folder).items()} == {"one": (3,), "two": (2, 2)}


def test_links_to_a_download_cache_are_followed(folder, tmp_path_factory):
    blob = tmp_path_factory.mktemp("blobs") / "0123"
    (folder / "a.safetensors").rename(blob)
    (folder / "a.safetensors").symlink_to(blob)
    assert set(open_folder(folder)) == {"one", "two"}


def test_a_missing_shard(folder):
    (folder / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"b\.safetensors does not exist, but .* names it: fetch it again"):
        open_folder(folder)


@pytest.mark.parametrize("size", [0, 5, 40, 100])
def test_a_truncated_shard(folder, size):
    path = folder / "a.safetensors"
    path.write_bytes(path.read_bytes()[:size] if size < 100 else path.read_bytes() + b"more")
    with pytest.raises(WeightsError, match=r"a\.safetensors is not a readable .safetensors file .*fetch it again"):
        open_folder(folder)


@pytest.mark.parametrize("file", ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "a.bin", "..\\a.safetensors", 3, None])
def test_an_index_that_names_files_outside_of_the_folder(folder, file):
    write_index(folder, MAP | {"one": file})
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json: weight_map places 'one' in"):
        open_folder(folder)


def test_index_and_files_that_contradict_each_other(folder):
    write_index(folder, MAP | {"three": "a.safetensors"})
    with pytest.raises(WeightsError, match=r"a\.safetensors has no tensor 'three'"):
        open_folder(folder)
    save_file(PARTS["a.safetensors"] | {"four": np.ones(1, np.float32)}, folder / "a.safetensors")
    write_index(folder, MAP)
    with pytest.raises(WeightsError, match=r"a\.safetensors has a tensor 'four'"):
        open_folder(folder)


def test_two_checkpoints_in_one_folder(folder):
    save_file(PARTS["a.safetensors"], folder / SINGLE)
    with pytest.raises(WeightsError, match="remove the one that is not of these weights"):
        open_folder(folder)


def test_an_index_that_was_cut_short():
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json, line 1: not JSON .*fetch it again"):
        open_folder(CASES / "checkpoint_index_cut_short")


@pytest.mark.parametrize("weight_map", [None, {}, ["a.safetensors"]])
def test_an_index_without_a_map(folder, weight_map):
    with pytest.raises(WeightsError, match=r"index\.json: field weight_map .*fetch it again"):
        open_folder(CASES / "checkpoint_index_without_map")
    write_index(folder, weight_map)
    with pytest.raises(WeightsError, match=r"index\.json: field weight_map .*fetch it again"):
        open_folder(folder)


def test_fp8_is_refused_by_name():
    with pytest.raises(WeightsError, match=r"qwen3_saved_in_fp8/model\.safetensors: tensor .* F8_E4M3 \(FP8\).*bfloat16"):
        open_file(CASES / "qwen3_saved_in_fp8" / SINGLE)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.bool_])
def test_tensors_of_integers_are_refused(tmp_path, dtype):
    save_file({"packed": np.ones(4, dtype)}, tmp_path / SINGLE)
    with pytest.raises(WeightsError, match=r"tensor 'packed' is stored as .*bfloat16"):
        open_folder(tmp_path)


@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (2, 3, 4), (9, 1), (0, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tensor_read_in_parts_is_whole(tmp_path, monkeypatch, shape, dtype):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    save_file({"a": values}, tmp_path / "model.safetensors")
    tensor = StoredTensor(tmp_path / "model.safetensors", "a", shape, dtype)
    whole = tensor.read()
    monkeypatch.setattr(module, "READ_VALUES", 5)
    for read in (whole, tensor.read()):
        assert read.dtype == values.dtype and read.shape == shape
        np.testing.assert_array_equal(read, values)
