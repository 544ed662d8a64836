"""The command that compares with the official implementation's recorded outputs: all golden models pass, and what is wrong is noticed."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from safetensors.numpy import load_file, save_file

from neo_jax.attention import api
from neo_jax.attention.api import Kernel
from neo_jax.attention.tpu import Blocks
from neo_jax.parity import Comparison, compare, main

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
TOLERANCES = {"vision": 2e-4, "hidden": 2e-4, "logits": 2e-4, "loss": 1e-6, "t index": 0, "lo": 0, "hi": 0, "loss weights": 0}


@pytest.mark.parametrize("name", ["model_tied", "model_untied", "model_edges", "model_text_only"])
def test_golden_model(name):
    results = {result.name: result for result in compare(GOLDEN / name)}
    assert {quantity: results[quantity].tolerance for quantity in TOLERANCES} == TOLERANCES
    gradients = [result for result in results.values() if result.name.startswith("gradient ")]
    assert len(gradients) == 4 + 2 * 17 + (3 if name == "model_untied" else 2)  # patch embedding, two stacks, embedding, last norm, output
    assert {result.tolerance for result in gradients} == {1e-4}
    assert len(results) == len(TOLERANCES) + len(gradients) + (name == "model_tied")
    assert name != "model_tied" or results["greedy tokens that differ"].tolerance == 0
    assert [result for result in results.values() if not result.error <= result.tolerance] == []
    assert all(result.passed for result in results.values())


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["model_edges", "model_tied", "model_untied", "model_text_only"])
def test_golden_model_through_the_tpu_kernels(name, monkeypatch):
    """Interpreted; heads of 16 are filled up with zeros."""
    used = []

    def choose(q, k, v, implementation):
        if implementation != "tpu":
            return Kernel("chunked", 64)  # of the greedy continuations
        used.append(q.shape)
        return Kernel("tpu", Blocks(128, 128, 128, 128), pltpu.InterpretParams())

    monkeypatch.setattr(api, "choose", choose)
    results = compare(GOLDEN / name, "tpu")
    assert used and [result for result in results if not result.passed] == []


def test_attention_that_cannot_run_here(folder, capsys):
    assert main([str(folder), "--attention", "hopper"]) == 2
    assert 'attention "hopper" cannot be used here: the devices are cpu' in capsys.readouterr().err


def test_what_passes():
    assert Comparison("loss", 1e-6, 1e-6).passed and Comparison("lo", 0, 0).passed
    assert not Comparison("loss", 1.1e-6, 1e-6).passed and not Comparison("lo", 1, 0).passed
    assert not Comparison("logits", float("nan"), 2e-4).passed


@pytest.fixture
def folder(tmp_path):
    """A parity folder without gradients and continuations."""
    for name in ("config.json", "model.safetensors", "batch.npz"):
        shutil.copy(GOLDEN / "model_text_only" / name, tmp_path)
    return tmp_path


def change(path: pathlib.Path, edit) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_one_changed_weight_fails(folder, capsys):
    def edit(tensors):
        tensors["language_model.model.layers.3.mlp.down_proj.weight"][7, 11] += 0.5

    change(folder / "model.safetensors", edit)
    assert main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line.split()[1] for line in lines if line.startswith("FAIL")]
    assert "logits" in failed and "hidden" in failed and "vision" not in failed and "lo" not in failed
    assert "beyond it: " in lines[-1] and "logits" in lines[-1]


def without(name):
    return lambda folder: change(folder / "model.safetensors", lambda tensors: tensors.pop(name))


def left_over(folder):
    change(folder / "model.safetensors", lambda tensors: tensors.update(stray=np.zeros(2, np.float32)))


def no_logits(folder):
    with np.load(folder / "batch.npz") as file:
        arrays = {name: value for name, value in file.items() if name != "logits"}
    np.savez(folder / "batch.npz", **arrays)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "batch.npz").unlink(), ["batch.npz", "does not exist"]),
        (lambda folder: (folder / "batch.npz").write_bytes(b"PK\3\4 cut short"), ["batch.npz", "not a readable"]),
        (no_logits, ["batch.npz", "'logits'"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["model.safetensors", "does not exist"]),
        (without("language_model.model.layers.1.self_attn.k_proj_hw.weight"), ["no tensor", "layers.1.self_attn.k_proj_hw.weight"]),
        (left_over, ["no place for", "'stray'"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "line 1"]),
        (lambda folder: (folder / "config.json").write_text("{}"), ["config.json", "llm_config"]),
    ],
)
def test_unusable_folder(folder, damage, words, capsys):
    damage(folder)
    assert main([str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("parity: ") and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words)


def test_exit_status_of_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "neo_jax.parity", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "config.json does not exist" in done.stderr and "Traceback" not in done.stderr
