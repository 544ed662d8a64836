"""The configuration: what is accepted, what is refused and how it is said, the published sizes."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping

import pytest
import safetensors

from configs import demo, neo_ov_2b, neo_ov_9b
from data_pipelines.schema import PhaseSettings, SourceSettings
from neo_jax.config import Config, ConfigError, Data, Model, Phase, parse_command_line
from neo_jax.config.phase import REMAT_POLICIES
from neo_jax.model.backbone import REMATERIALISATION
from neo_jax.planning.search import RECOMPUTE_FACTOR, SAVED_ACTIVATIONS
from neo_jax.training.curriculum import mesh_problems

ROOT = pathlib.Path(__file__).parents[3]
GOLDEN_MODELS = ROOT / "tests" / "golden"
DEMO = f"--config={ROOT / 'configs' / 'demo.py'}"


def demo_values() -> dict:
    """The demo's configuration as plain dictionaries, no section shared by two keys."""
    values = json.loads(json.dumps(demo.get_config().to_dict()))
    # The sizes that the messages below name, whatever the demo is tuned to.
    values["model"].update({"heads": 4, "kv_heads": 2})
    values["phases"]["sft"].update({"visual_tokens": 512, "images": 128, "max_pixels": 25 * 1024, "rows_per_step": 4})
    return values


def problems(change: Mapping[str, object], values: dict | None = None) -> list[str]:
    """What is wrong with the demo's configuration after setting dotted keys; [] when nothing is."""
    values = values or demo_values()
    for path, value in change.items():
        *sections, last = path.split(".")
        section = values
        for key in sections:
            section = section[key]
        section[last] = value
    try:
        Config.from_config_dict(values)
    except ConfigError as error:
        return error.problems
    return []


def test_parameters_equal_the_published_models() -> None:
    assert Config.from_config_dict(neo_ov_2b.get_config()).model.parameters() == 2_585_453_568
    assert Config.from_config_dict(neo_ov_9b.get_config()).model.parameters() == 10_246_797_312


@pytest.mark.parametrize("folder", ["model_tied", "model_untied"])
def test_parameters_equal_the_tensors_of_a_checkpoint(folder: str) -> None:
    values = json.loads((GOLDEN_MODELS / folder / "config.json").read_text())
    llm, vision = values["llm_config"], values["vision_config"]
    model = Model(
        hidden=llm["hidden_size"],
        mlp=llm["intermediate_size"],
        heads=llm["num_attention_heads"],
        kv_heads=llm["num_key_value_heads"],
        head_dim=llm["head_dim"],
        base_layers=llm["num_hidden_layers"] - llm["extra_num_layers"],
        pre_buffer_layers=llm["extra_num_layers"],
        vocabulary=llm["vocab_size"],
        tied=llm["tie_word_embeddings"],
        patch_channels=vision["hidden_size"],
    )
    with safetensors.safe_open(GOLDEN_MODELS / folder / "model.safetensors", "numpy") as file:
        assert model.parameters() == sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118 (not a dictionary)


def test_the_demo_is_small_and_its_context_quadruples() -> None:
    settings = Config.from_config_dict(demo.get_config())
    assert settings.model.parameters() < 2_000_000
    assert settings.phases[0].architecture == "qwen3"
    assert next(phase.trains for phase in settings.phases if phase.architecture == "neo") == "new"
    neo = [phase.context for phase in settings.phases if phase.architecture == "neo"]
    assert neo == sorted(neo) and neo[-1] >= 4 * neo[0]


def test_phases_stand_in_the_order_of_the_curriculum() -> None:
    values = demo_values()
    values["curriculum"] = ["pretrain", "sft"]
    settings = Config.from_config_dict(values)
    assert [phase.name for phase in settings.phases] == ["pretrain", "sft"]
    assert settings.data.sources["multi"] == SourceSettings("multi", "jsonl", "runs/demo/corpus/train/multi.jsonl", "runs/demo/corpus")


def test_input_gives_the_pipeline_all_it_needs() -> None:
    values = demo_values()
    values["phases"]["mid_512"]["mixture"] = {"text": 0, "image": 3, "video": 1.5}
    phase = next(phase for phase in Config.from_config_dict(values).phases if phase.name == "mid_512")
    given = phase.input()
    assert given.rows == phase.steps * phase.rows_per_step
    assert given.mixture == {"image": 3.0, "video": 1.5}
    for field in dataclasses.fields(PhaseSettings):
        if field.name not in ("rows", "mixture"):
            assert getattr(given, field.name) == getattr(phase, field.name)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config.from_config_dict(demo.get_config()).model.hidden = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("model.hiden", 3, "model.hiden: unknown key; did you mean 'hidden'?"),
        ("modell", {}, "modell: unknown key; did you mean 'model'?"),
        ("phases.sft.contxt", 3, "phases.sft.contxt: unknown key; did you mean 'context'?"),
        ("phases.sft.mesh.tensr", 3, "phases.sft.mesh.tensr: unknown key; did you mean 'tensor'?"),
        ("data.sources.image.name", "x", "data.sources.image.name: unknown key"),
        ("model.hidden", 0, "model.hidden: is 0, must be at least 1"),
        ("model.hidden", 64.0, "model.hidden: is 64.0, must be a whole number"),
        ("model.hidden", True, "model.hidden: is True, must be a whole number"),
        ("model.tied", 1, "model.tied: is 1, must be True or False"),
        ("model", 3, "model: is 3, must be a section with keys of its own"),
        ("model.head_dim", 30, "model.head_dim: is 30, must be a multiple of 4"),
        ("model.kv_heads", 3, "model.heads: 4 query heads cannot share 3 key/value heads evenly"),
        ("model.patch_channels", 126, "model.patch_channels: is 126, must be a multiple of 4"),
        ("model.norm_epsilon", 0, "model.norm_epsilon: is 0, must be above 0"),
        ("optimizer.beta1", 1.0, "optimizer.beta1: is 1.0, must be at least 0 and below 1"),
        (
            "optimizer",
            {"nu_dtype": "bfloat16", "beta2": 0.995},
            "optimizer.nu_dtype: is bfloat16 with beta2 0.995: the second moment changes by at most 1 - beta2 = 0.005 of itself in a step",
        ),
        ("optimizer.clip_norm", float("nan"), "optimizer.clip_norm: is nan, must be above 0"),
        ("optimizer.clip_norm", float("inf"), "optimizer.clip_norm: is inf, must be above 0"),
        ("tokenizer.path", "", "tokenizer.path: is empty: set it"),
        ("run.directory", 3, "run.directory: is 3, must be a text"),
        ("run.seed", -1, "run.seed: is -1, must be at least 0"),
        ("data.sources", {}, "data.sources: is empty: name at least one source"),
        ("data.sources.image.format", "tfrecord", "data.sources.image.format: is 'tfrecord', must be one of jsonl, tar, parquet"),
        ("data.heldout.text.path", "", "data.heldout.text.path: is empty: set it"),
        ("data.max_failure_rate", 1.5, "data.max_failure_rate: is 1.5, must be at least 0 and at most 1"),
        ("phases.sft.trains", "frozen", 'phases.sft.trains: has \'frozen\', must be "all", "new" or a pattern of parameters'),
        (
            "phases.sft.loss_weighting",
            "sqare",
            "phases.sft.loss_weighting: is 'sqare', must be one of square, token, sample; did you mean 'square'?",
        ),
        ("phases.sft.remat", "all", "phases.sft.remat: is 'all', must be one of none, full, attention, dots"),
        ("phases.sft.attention", "triton", "phases.sft.attention: is 'triton', must be one of auto, chunked, tpu, hopper"),
        ("phases.sft.compute_dtype", "float16", "phases.sft.compute_dtype: is 'float16', must be one of float32, bfloat16"),
        ("phases.sft.resize", "slow", "phases.sft.resize: is 'slow', must be one of exact, fast"),
        ("phases.sft.architecture", "neoo", "phases.sft.architecture: is 'neoo', must be one of qwen3, neo; did you mean 'neo'?"),
        ("phases.sft.frames_per_second", (1.0, 2.0, 3.0), "phases.sft.frames_per_second: is (1.0, 2.0, 3.0), must be 2 values"),
        ("phases.sft.frames_per_second", (1.0, "x"), "phases.sft.frames_per_second[1]: is 'x', must be a number"),
        ("phases.sft.frames_per_second", (2.0, 1.0), "phases.sft.frames_per_second: is (2.0, 1.0), must be (low, high)"),
        ("phases.sft.minimum_ratio", 1.1, "phases.sft.minimum_ratio: is 1.1, must be at least 0 and at most 1"),
        ("phases.sft.learning_rate", 0, "phases.sft.learning_rate: is 0, must be above 0"),
        ("phases.sft.mesh.data", 0, "phases.sft.mesh.data: is 0, must be at least 1, or -1 for the rest of the devices"),
        (
            "phases.sft.mesh.context",
            3,
            "phases.sft.context: 1024 tokens do not divide by mesh.context 3: 1023 or 1026 tokens would, or mesh.context 2 or 4",
        ),
        ("phases.sft.mesh.tensor", 4, "phases.sft.mesh.tensor: model.kv_heads 2 does not divide by 4: tensor 2 would"),
        ("phases.sft.mesh.tensor", 8, "phases.sft.mesh.tensor: model.heads 4 does not divide by 8: tensor 4 would"),
        (
            "phases.sft.mesh.fsdp",
            3,
            "phases.sft.rows_per_step: 4 rows do not divide by accumulate 1 x mesh.data 1 x mesh.fsdp 3 = 3: 3 or 6 would",
        ),
        ("phases.sft.accumulate", 3, "phases.sft.rows_per_step: 4 rows do not divide by accumulate 3 x mesh.data 1 x mesh.fsdp 1 = 3"),
        ("phases.sft.visual_tokens", 1025, "phases.sft.visual_tokens: 1025 visual tokens do not fit a context of 1024 tokens"),
        ("phases.sft.images", 0, "phases.sft.images: is 0, must be at least 1 and at most visual_tokens"),
        ("phases.sft.min_pixels", 1000, "phases.sft.min_pixels: is 1000, must be at least 1024"),
        ("phases.sft.max_pixels", 1000, "phases.sft.max_pixels: is 1000, below min_pixels 1024"),
        ("phases.sft.max_pixels", 1024 * 513, "phases.sft.max_pixels: is 525312, but 512 visual tokens hold 524288 pixels"),
        ("phases.sft.frames", 129, "phases.sft.frames: is 129, but a row holds 128 images"),
        ("phases.sft.jpeg_quality", (75, 101), "phases.sft.jpeg_quality: is (75, 101), must be (low, high) between 1 and 100"),
        ("phases.sft.jpeg_quality", (0, 90), "phases.sft.jpeg_quality: is (0, 90), must be (low, high) between 1 and 100"),
        ("phases.sft.clip_pixels", 8 * 1024 - 1, "phases.sft.clip_pixels: is 8191, but 8 frames of min_pixels have 8192"),
        ("phases.sft.frame_choice", "first", "phases.sft.frame_choice: is 'first', must be one of neo, qwen_vl, internvl, llava_video"),
        ("phases.sft.image_budget", "u1", 'phases.sft.image_budget: is "u1", which keeps 3072 tokens for text, of a context of 1024'),
        ("phases.sft.frame_pixels", 1000, "phases.sft.frame_pixels: is 1000, below min_pixels 1024"),
        ("phases.sft.frame_pixels", 1024 * 26, "phases.sft.frame_pixels: is 26624, above max_pixels 25600"),
        ("phases.text.visual_tokens", 9, "phases.text.visual_tokens: is 9, but the architecture qwen3 reads text only"),
        ("phases.text.frames", 9, "phases.text.frames: is 9, but visual_tokens is 0"),
        ("phases.text.trains", "new", 'phases.text.trains: is "new", but the architecture qwen3 has no new parameters'),
        ("phases.sft.mixture.vidoe", 1.0, "phases.sft.mixture.vidoe: no such source in data.sources"),
        ("phases.sft.mixture.video", -1.0, "phases.sft.mixture.video: is -1.0, must be at least 0"),
        ("phases.sft.mixture", {"text": 0.0}, "phases.sft.mixture: gives no source a weight above 0"),
        ("curriculum", [], "curriculum: is empty: name at least one phase"),
        ("curriculum", ["txt"], "curriculum[0]: no phase 'txt' in phases; did you mean 'text'?"),
        ("curriculum", ["text", "sft", "sft"], "curriculum[2]: phase 'sft' is listed twice; rename the second"),
        ("curriculum", ["pretrain", "text"], "phases.text.architecture: is qwen3, but pretrain before it is neo already"),
    ],
)
def test_refused_with_key_and_reason(path: str, value: object, sentence: str) -> None:
    found = problems({path: value})
    assert any(problem.startswith(sentence) for problem in found), found


def test_a_name_may_be_no_path() -> None:
    values = demo_values()
    values["phases"]["mid.512"] = values["phases"]["mid_512"]
    assert problems({}, values) == ["phases.mid.512: names are letters, digits and underscores, and begin with no digit"]


def test_a_misspelt_source_names_the_nearest() -> None:
    (problem,) = problems({"phases.sft.mixture.vidoe": 1.0})
    assert problem.endswith("did you mean 'video'?")


@pytest.mark.parametrize(
    "path", ["model", "curriculum", "phases", "data.sources", "model.hidden", "phases.sft.steps", "run.directory", "phases.sft.mixture"]
)
def test_missing_keys_are_named(path: str) -> None:
    values = demo_values()
    *sections, last = path.split(".")
    section = values
    for key in sections:
        section = section[key]
    del section[last]
    assert f"{path}: missing: set it" in problems({}, values)


def test_an_image_that_fills_the_context_is_refused() -> None:
    change = {"phases.sft.visual_tokens": 1024, "phases.sft.max_pixels": 1024 * 1023}
    assert problems(change) == [
        "phases.sft.max_pixels: is 1047552: with its two marks such an image fills more than 1024 tokens: lower it",
    ]


def test_frames_that_never_fit_are_refused() -> None:
    change = {"phases.sft.visual_tokens": 36, "phases.sft.images": 20, "phases.sft.frames": 16, "phases.sft.min_pixels": 4096}
    assert problems(change) == ["phases.sft.frames: 16 frames of min_pixels do not fit 36 visual tokens: lower it"]


def test_the_rest_of_the_devices_is_left_to_the_mesh() -> None:
    assert problems({"phases.sft.mesh.data": -1, "phases.sft.mesh.fsdp": 2}) == []
    assert problems({"phases.sft.mesh.data": -1, "phases.sft.mesh.fsdp": 8})


def test_everything_wrong_is_said_at_once() -> None:
    found = problems(
        {
            "model.hiden": 1,
            "optimizer.beta2": 2.0,
            "phases.text.steps": 0,
            "phases.pretrain.learning_rate": "fast",
            "phases.sft.mesh.context": 3,
            "phases.mid_512.mixture": {"cats": 1.0},
            "curriculum": ["text", "pretain"],
        }
    )
    assert len(found) == 7
    with pytest.raises(ConfigError, match=r"^7 problems in the configuration:\n  model\.hiden: unknown key"):
        raise ConfigError(found)


def test_resolved_is_complete_and_comes_back_equal() -> None:
    settings = Config.from_config_dict(demo.get_config())
    written = json.loads(settings.to_json())
    assert written["model"]["rope_theta_hw"] == 1e4  # a default that the file does not name
    assert written["curriculum"][0] == "text"
    assert Config.from_config_dict(written) == settings
    assert Config.from_config_dict(written).resolved() == written


def test_defaults_need_not_be_written() -> None:
    values = demo_values()
    del values["optimizer"], values["evaluation"]
    for phase in values["phases"].values():
        del phase["mesh"], phase["remat"], phase["loss_weighting"]
    settings = Config.from_config_dict(values)
    assert settings.optimizer.beta2 == 0.95
    assert all(phase.mesh.tensor == 1 and phase.loss_weighting == "square" for phase in settings.phases)


def test_the_configuration_needs_no_jax() -> None:
    code = "import sys, neo_jax.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_published_values_of_the_curriculum() -> None:
    for module in (neo_ov_2b, neo_ov_9b):
        settings = Config.from_config_dict(module.get_config())
        phases = {phase.name: phase for phase in settings.phases}
        assert list(phases) == ["pretrain", "mid_16k", "mid_24k", "mid_36k", "sft"]
        assert [phase.trains for phase in settings.phases] == ["new", "all", "all", "all", "all"]
        assert [phase.learning_rate for phase in settings.phases] == [2e-4, 5e-5, 5e-5, 5e-5, 5e-5]
        assert [phase.minimum_ratio for phase in settings.phases] == [0.1, 0.2, 0.2, 0.2, 0.1]
        assert {phase.warmup_ratio for phase in settings.phases} == {0.01}
        assert [phase.context for phase in settings.phases] == [16_384, 16_384, 24_576, 36_864, 34_816]
        assert {phase.min_pixels for phase in settings.phases} == {256**2}
        assert [phases[name].max_pixels for name in ("pretrain", "mid_36k", "sft")] == [1024**2, 4096**2, 4096**2]
        assert [phases[name].frames for name in ("pretrain", "mid_36k", "sft")] == [0, 128, 128]
        assert phases["mid_36k"].mixture == {"text": 2, "image_text": 4, "multi_image": 1, "video": 1}
        assert phases["sft"].mixture == {"sft_image": 4, "sft_multi_image": 1, "sft_video": 1}
        assert phases["pretrain"].steps == 190_000 and phases["sft"].steps == 6_000
        assert sum(phase.steps for name, phase in phases.items() if name.startswith("mid")) == 50_000
        assert settings.optimizer.beta2 == 0.95 and settings.optimizer.weight_decay == 0.01


@pytest.mark.parametrize("module", [neo_ov_2b, neo_ov_9b])
def test_the_laptop_keeps_the_phases_and_shrinks_the_rest(module: object) -> None:
    whole = Config.from_config_dict(module.get_config())  # type: ignore[attr-defined]
    small = Config.from_config_dict(module.get_config("laptop"))  # type: ignore[attr-defined]
    assert [phase.name for phase in small.phases] == [phase.name for phase in whole.phases]
    assert [phase.mixture for phase in small.phases] == [phase.mixture for phase in whole.phases]
    assert small.model.tied == whole.model.tied
    assert small.model.parameters() < 2_000_000
    for phase in small.phases:
        assert phase.steps <= 10 and phase.context <= 1024 and phase.mesh == Phase.__dataclass_fields__["mesh"].default
    assert small.run.directory != whole.run.directory


@pytest.mark.parametrize("module", [neo_ov_2b, neo_ov_9b])
def test_an_unknown_argument_is_refused(module: object) -> None:
    with pytest.raises(ValueError, match="laptop"):
        module.get_config("lap")  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", [neo_ov_2b, neo_ov_9b])
def test_every_phase_fits_the_devices_it_is_written_for(file) -> None:
    settings = Config.from_config_dict(file.get_config())
    assert mesh_problems(settings, 128) == []


def test_every_phase_whose_mesh_does_not_fit_is_named() -> None:
    config = demo.get_config()
    config.phases.text.mesh.data = -1  # 8 rows over 8 devices
    config.phases.pretrain.mesh.update({"data": 2, "context": 2})
    config.phases.sft.mesh.update({"data": -1, "context": 2})  # 2 rows over 4
    config.curriculum = ("text", "pretrain", "sft")
    assert mesh_problems(Config.from_config_dict(config), 8) == [
        "phases.pretrain.mesh: data 2 x fsdp 1 x context 2 x tensor 1 does not make 8 devices; data 4 x fsdp 1 x context 2 x tensor 1 would",
        "phases.sft.rows_per_step: 2 rows in 1 passes do not divide over data 4 x fsdp 1: 4 would; or divide each row over devices with "
        "mesh.context or mesh.tensor",
    ]


def test_widths_divide_over_fsdp() -> None:
    config = demo.get_config()
    config.phases.sft.mesh.fsdp = 3
    with pytest.raises(ConfigError, match=r"phases.sft.mesh.fsdp: model.hidden 128 does not divide by 3: fsdp 2 or 4 would"):
        Config.from_config_dict(config)


def test_a_file_that_is_no_configuration(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text("# Not Python\nbut words")
    with pytest.raises(ConfigError, match=r"notes.md does not run as a configuration \(SyntaxError"):
        parse_command_line([f"--config={file}"])


def test_a_bfloat16_second_moment_needs_a_small_beta2() -> None:
    assert problems({"optimizer": {"nu_dtype": "bfloat16", "beta2": 0.99}}) == []
    assert problems({"optimizer": {"nu_dtype": "float32", "beta2": 0.9999}}) == []
    assert problems({"optimizer": {"mu_dtype": "bfloat16", "beta2": 0.9999}}) == []


def test_every_rematerialisation_is_known_wherever_one_is_chosen() -> None:
    assert {"none", *REMATERIALISATION} == SAVED_ACTIVATIONS.keys() == RECOMPUTE_FACTOR.keys() == set(REMAT_POLICIES)


def test_the_failure_limit_holds_for_small_data_too() -> None:
    assert Data.__dataclass_fields__["minimum_samples"].default == 20
    for file in (demo, neo_ov_2b, neo_ov_9b):
        assert Config.from_config_dict(file.get_config()).data.minimum_samples == 20


def test_seeds_have_a_range() -> None:
    with pytest.raises(ConfigError, match=r"run.seed: is 99999999999999999999, must be at least 0 and at most"):
        parse_command_line(["--config=configs/demo.py", "--config.run.seed=99999999999999999999"])


@pytest.mark.parametrize("argument", [None, "laptop"])
@pytest.mark.parametrize("module", [neo_ov_2b, neo_ov_9b])
def test_neo_is_trained_on_the_reference_s_pixels(module, argument):
    settings = Config.from_config_dict(module.get_config(argument))
    assert {source.pictures for source in settings.data.sources.values()} == {"reference"}


def test_an_unknown_picture_policy_is_named():
    configuration = neo_ov_2b.get_config()
    configuration.data.sources.text.pictures = "exact"
    with pytest.raises(ConfigError, match=r"data\.sources\.text\.pictures: is 'exact', must be one of faithful, reference"):
        Config.from_config_dict(configuration)


def test_a_source_may_have_one_path_or_several() -> None:
    assert problems({"data.sources.text.path": ("a.jsonl", "b-{000..127}.jsonl")}) == []
    found = problems({"data.sources.text.path": ("a.jsonl", 3)})
    assert any(problem.startswith("data.sources.text.path[1]: is 3, must be a text") for problem in found), found
