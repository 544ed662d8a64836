"""A run that begins from a folder, the tiny Qwen3 of the golden data and a NEO, or from another run; and what is noted of it."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs.demo import get_config
from neo_jax.config import Config
from neo_jax.exit_codes import CONFIGURATION
from neo_jax.interop.config_fields import neo_model, qwen3_model, read_config
from neo_jax.interop.errors import WeightsError
from neo_jax.model.freezing import trains
from neo_jax.places import open_place
from neo_jax.runs.directory import RunDirectoryError
from neo_jax.runs.reading import CheckpointError
from neo_jax.sharding import make_mesh
from neo_jax.train import CODES
from neo_jax.training.beginning import begin, check_origin, write_origin
from tests.neo_jax.saved_run import saved_run

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
QWEN3 = GOLDEN / "qwen3_init" / "qwen3"
NEO = GOLDEN / "model_tied"
CASES = pathlib.Path(__file__).parents[1] / "interop" / "cases"


def settings(folder: pathlib.Path, first: str, model) -> Config:
    """The demo's configuration with this model, its first phase of architecture `first`."""
    config = Config.from_config_dict(get_config())
    phases = config.phases if first == "qwen3" else config.phases[1:]
    return dataclasses.replace(config, model=model, phases=phases, run=dataclasses.replace(config.run, initial=str(folder)))


def start(config: Config) -> dict[str, np.ndarray]:
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        return {name: np.asarray(value) for name, value in begin(config).parameters.items()}


@pytest.fixture(scope="module")
def qwen3_shape():
    path = QWEN3 / "config.json"
    return qwen3_model(read_config(path), path, pre_buffer_layers=1, patch_channels=16)


@pytest.fixture(scope="module")
def neo_shape():
    return neo_model(read_config(NEO / "config.json"), NEO / "config.json")


def test_a_qwen3_starts_a_text_phase_and_becomes_a_neo(qwen3_shape, tmp_path):
    text = start(settings(QWEN3, "qwen3", qwen3_shape))
    neo = start(settings(QWEN3, "neo", qwen3_shape))
    assert "patch_embedding.patch" in neo and "patch_embedding.patch" not in text
    np.testing.assert_array_equal(neo["base.mlp.up"], text["base.mlp.up"])
    np.testing.assert_array_equal(neo["embedding"], load_file(QWEN3 / "model.safetensors")["model.embed_tokens.weight"])


def test_a_checkpoint_in_several_files(qwen3_shape, tmp_path):
    tensors = load_file(QWEN3 / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(QWEN3 / "config.json", tmp_path)
    whole, split = start(settings(QWEN3, "qwen3", qwen3_shape)), start(settings(tmp_path, "qwen3", qwen3_shape))
    assert whole.keys() == split.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(split[name], value)


def test_a_neo_goes_on_as_a_neo(neo_shape):
    parameters = start(settings(NEO, "neo", neo_shape))
    expected = load_file(NEO / "model.safetensors")["language_model.model.embed_tokens.weight"]
    np.testing.assert_array_equal(parameters["embedding"], expected)


def test_what_does_not_fit_is_refused(qwen3_shape, tmp_path):
    with pytest.raises(WeightsError, match=r"model\.hidden is 32, the checkpoint has 64"):
        start(settings(QWEN3, "qwen3", dataclasses.replace(qwen3_shape, hidden=32)))
    with pytest.raises(WeightsError, match="is a NEO, and the first phase trains architecture 'qwen3'"):
        start(settings(NEO, "qwen3", qwen3_shape))
    with pytest.raises(WeightsError, match="does not exist"):
        start(settings(tmp_path, "qwen3", qwen3_shape))


def test_a_config_as_transformers_5_writes_it(qwen3_shape, tmp_path):
    shutil.copy(CASES / "qwen3_config_of_transformers_5" / "config.json", tmp_path)
    shutil.copy(QWEN3 / "model.safetensors", tmp_path)
    golden, written = start(settings(QWEN3, "qwen3", qwen3_shape)), start(settings(tmp_path, "qwen3", qwen3_shape))
    assert golden.keys() == written.keys()
    for name, value in golden.items():
        np.testing.assert_array_equal(written[name], value)


def test_rotary_frequencies_of_yarn_are_refused(qwen3_shape, tmp_path):
    shutil.copy(CASES / "qwen3_config_with_yarn" / "config.json", tmp_path)
    shutil.copy(QWEN3 / "model.safetensors", tmp_path)
    with pytest.raises(WeightsError, match=r"config\.json: field rope_scaling asks for \"yarn\".*set rope_scaling to null"):
        start(settings(tmp_path, "qwen3", qwen3_shape))


def test_fp8_is_refused(qwen3_shape):
    assert CODES[WeightsError] == CONFIGURATION == 78
    folder = CASES / "qwen3_saved_in_fp8"
    with pytest.raises(WeightsError, match=r"config\.json: field quantization_config is .*fp8.*bfloat16"):
        start(settings(folder, "qwen3", qwen3_shape))


@pytest.mark.parametrize(
    ("field", "value"),
    [("rope_theta", 1e4), ("rope_theta_hw", 2e3), ("patch_rope_theta", 1e5), ("norm_epsilon", 1e-5), ("patch_channels", 16)],
)
def test_a_neo_of_other_settings_than_the_configuration_is_refused(neo_shape, field, value):
    with pytest.raises(WeightsError, match=rf"model\.{field} is {value}, the checkpoint has"):
        start(settings(NEO, "neo", dataclasses.replace(neo_shape, **{field: value})))


def test_a_qwen3_says_nothing_of_what_a_neo_adds(qwen3_shape):
    model = dataclasses.replace(qwen3_shape, rope_theta_hw=2e3, patch_rope_theta=1e5)
    assert "base.mlp.up" in start(settings(QWEN3, "qwen3", model))
    with pytest.raises(WeightsError, match=r"model\.rope_theta is 10000\.0"):
        start(settings(QWEN3, "qwen3", dataclasses.replace(model, rope_theta=1e4)))


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.q_proj.weight", "model.layers.1.input_layernorm.weight", "model.norm.weight"])
def test_a_tensor_of_another_shape_is_named(qwen3_shape, tmp_path, name):
    tensors = load_file(QWEN3 / "model.safetensors")
    save_file(tensors | {name: np.ascontiguousarray(tensors[name][:-1])}, tmp_path / "model.safetensors")
    shutil.copy(QWEN3 / "config.json", tmp_path)
    with pytest.raises(WeightsError, match=rf"tensor '{name}' has shape .*config\.json"):
        start(settings(tmp_path, "qwen3", qwen3_shape))


@pytest.mark.parametrize("equal", [True, False])
def test_a_tied_checkpoint_with_an_output_matrix(qwen3_shape, tmp_path, equal):
    """Published both with it and without."""
    assert qwen3_shape.tied
    tensors = load_file(QWEN3 / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + (0 if equal else 1)
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(QWEN3 / "config.json", tmp_path)
    if equal:
        np.testing.assert_array_equal(start(settings(tmp_path, "qwen3", qwen3_shape))["embedding"], tensors["lm_head.weight"])
    else:
        with pytest.raises(WeightsError, match=r"'lm_head.weight' differs from 'model.embed_tokens.weight'"):
            start(settings(tmp_path, "qwen3", qwen3_shape))


def test_a_truncated_checkpoint_is_named(qwen3_shape, tmp_path):
    content = (QWEN3 / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    shutil.copy(QWEN3 / "config.json", tmp_path)
    with pytest.raises(WeightsError, match=r"model.safetensors is not a readable .safetensors file"):
        start(settings(tmp_path, "qwen3", qwen3_shape))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> pathlib.Path:
    """A run of random parameters with checkpoints after "text", a Qwen3, and after "pretrain", a NEO; its moments are not zero."""
    config = Config.from_config_dict(get_config())

    def filled(state):
        moments = {name: jax.tree.map(lambda x: x + 3, moment) for name, moment in state.moments.items()}
        return dataclasses.replace(state, moments=moments)

    return saved_run(tmp_path_factory.mktemp("other") / "run", config, phases=2, change=filled)


def branch(other: pathlib.Path, place: str, first: str, takes: str = "parameters", **optimizer) -> Config:
    config = Config.from_config_dict(get_config())
    names = [phase.name for phase in config.phases]
    return dataclasses.replace(
        config,
        phases=config.phases[names.index(first) :],
        optimizer=dataclasses.replace(config.optimizer, **optimizer),
        run=dataclasses.replace(config.run, initial=f"{other}{place}", initial_takes=takes),
    )


def begun(config: Config):
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        return jax.tree.map(np.asarray, begin(config))


def test_parameters_of_another_run(other):
    """A NEO goes on as a NEO; a Qwen3 becomes one, as at the edge between two phases. Moments are new."""
    state = begun(branch(other, "", "captions"))
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        expected = open_place(str(other)).parameters()
    assert state.parameters.keys() == expected.keys() == state.moments.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state.parameters[name], value)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.moments))
    made = begun(branch(other, ":text", "pretrain"))
    again = begun(branch(other, ":pretrain", "pretrain"))  # the other run made its NEO of the same Qwen3, with the same seed
    for name, value in again.parameters.items():
        np.testing.assert_array_equal(made.parameters[name], value, err_msg=name)


def test_moments_of_another_run(other):
    """Those that both phases train, in this run's storage type; the others are new."""
    state = begun(branch(other, "", "captions", "moments", mu_dtype="bfloat16"))
    trained = {name for name in state.moments if trains(name, "new")}
    for name, moment in state.moments.items():
        assert moment.mu.dtype == "bfloat16" and moment.nu.dtype == "float32"
        for leaf in jax.tree.leaves(moment):
            assert (leaf == (3 if name in trained else 0)).all(), name
    assert trained and trained != state.moments.keys()


def test_a_run_that_does_not_fit_is_refused(other, neo_shape):
    config = branch(other, "", "captions")
    with pytest.raises(WeightsError, match=r"run does not fit the configuration: model.hidden is 64, the checkpoint has 128"):
        begun(dataclasses.replace(config, model=neo_shape))
    with pytest.raises(WeightsError, match=r"is a NEO, and the first phase trains architecture 'qwen3'"):
        begun(branch(other, "", "text"))
    with pytest.raises(CheckpointError, match=r"no checkpoint of a phase 'sft'; it has some of text, pretrain"):
        begun(branch(other, ":sft", "captions"))


def test_where_a_run_came_from_is_noted_and_held(other, tmp_path):
    config = branch(other, ":text", "pretrain")
    run = tmp_path / "run"
    run.mkdir()
    write_origin(config, run)
    note = json.loads((run / "initial" / "origin.json").read_text())
    assert note["phase"] == "text" and note["step"] == 10 and note["run"] == str(other) and note["takes"] == "parameters"
    check_origin(config, run)
    moved = shutil.copytree(other, tmp_path / "moved")
    check_origin(branch(moved, ":text", "pretrain"), run)
    check_origin(branch(moved, ":10", "pretrain"), run)
    with pytest.raises(RunDirectoryError, match=r"moved:pretrain holds other parameters, and the run in .* began from .*:text"):
        check_origin(branch(moved, ":pretrain", "pretrain"), run)
    with pytest.raises(RunDirectoryError, match=r"run.initial is '' \(parameters\), and the run in"):
        check_origin(Config.from_config_dict(get_config()), run)
    with pytest.raises(RunDirectoryError, match=r"is no folder.*began from"):
        check_origin(branch(tmp_path / "gone", "", "pretrain"), run)
    with pytest.raises(RunDirectoryError, match="began from random parameters"):
        check_origin(config, other)


def test_a_published_folder_may_move(neo_shape, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_origin(settings(NEO, "neo", neo_shape), run)
    moved = shutil.copytree(NEO, tmp_path / "moved")
    check_origin(settings(moved, "neo", neo_shape), run)
    tensors = load_file(moved / "model.safetensors")
    save_file(tensors | {"language_model.model.norm.weight": tensors["language_model.model.norm.weight"] + 1}, moved / "model.safetensors")
    with pytest.raises(RunDirectoryError, match="holds other parameters"):
        check_origin(settings(moved, "neo", neo_shape), run)
