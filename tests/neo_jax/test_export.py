"""The command: published folders and runs become folders that hold the same numbers, field by field and bit for bit."""

import dataclasses
import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from configs.demo import get_config
from data_pipelines.text.tokenizers import SPECIAL_TOKENS, load_tokenizer
from neo_jax import export
from neo_jax.config import Config, Tokenizer
from neo_jax.exit_codes import CONFIGURATION, DONE
from neo_jax.interop import write
from neo_jax.interop.config_fields import neo_model, read_config
from neo_jax.interop.tensors import INDEX, SINGLE
from neo_jax.interop.written_config import IMAGE_TOKENS
from neo_jax.places import open_place
from neo_jax.runs.evaluations import EvaluationRecord, FamilyResult, write_evaluation
from neo_jax.sharding import make_mesh
from tests.neo_jax.saved_run import saved_run

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
QWEN3 = GOLDEN / "qwen3_init" / "qwen3"


def run_export(*arguments: str) -> int:
    return export.main([f"--{argument}" for argument in arguments])


def tensors_of(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def assert_equal_tensors(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in other.items():
        assert one[name].dtype == value.dtype
        np.testing.assert_array_equal(one[name], value, err_msg=name)


@pytest.fixture(params=["model_tied", "model_untied", "qwen3"])
def published(request, tmp_path) -> pathlib.Path:
    """A folder as published: tensors in bfloat16 and float32, a tokenizer, settings, a licence."""
    golden = GOLDEN / request.param if request.param != "qwen3" else QWEN3
    folder = tmp_path / "published"
    folder.mkdir()
    shutil.copy(golden / "config.json", folder)
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    (folder / "generation_config.json").write_text('{"temperature": 0.6}\n')
    (folder / "LICENSE").write_text("Apache\n")
    tensors = {name: value if "norm" in name else value.astype(ml_dtypes.bfloat16) for name, value in load_file(golden / SINGLE).items()}
    save_file(tensors, folder / SINGLE)
    return folder


def test_a_published_folder_comes_out_as_it_went_in(published, tmp_path, capsys):
    assert run_export(f"checkpoint={published}", f"output={tmp_path / 'out'}") == DONE
    assert_equal_tensors(tensors_of(tmp_path / "out"), tensors_of(published))
    for name in ("config.json", "tokenizer.json", "generation_config.json", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (published / name).read_bytes()
    assert "without a tokenizer" not in capsys.readouterr().out


def test_a_tied_folder_that_holds_its_output_matrix_keeps_it(tmp_path):
    folder = tmp_path / "published"
    shutil.copytree(GOLDEN / "model_tied", folder)
    tensors = load_file(folder / SINGLE)
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].copy()
    save_file(tensors, folder / SINGLE)
    assert run_export(f"checkpoint={folder}", f"output={tmp_path / 'out'}") == DONE
    assert_equal_tensors(tensors_of(tmp_path / "out"), tensors)


def test_large_ones_are_written_in_several_files(published, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "write_folder", lambda *arguments: write.write_folder(*arguments, file_bytes=40_000))
    assert run_export(f"checkpoint={published}", f"output={tmp_path / 'out'}") == DONE
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors_of(published).values())
    assert_equal_tensors(tensors_of(tmp_path / "out"), tensors_of(published))
    assert run_export(f"checkpoint={tmp_path / 'out'}", f"output={tmp_path / 'again'}") == DONE
    assert_equal_tensors(tensors_of(tmp_path / "again"), tensors_of(published))


def test_rounding_is_said(tmp_path, capsys):
    assert run_export(f"checkpoint={GOLDEN / 'model_tied'}", f"output={tmp_path / 'out'}", "dtype=bfloat16") == DONE
    out = capsys.readouterr().out
    count = len(load_file(GOLDEN / "model_tied" / SINGLE))
    assert f"rounded to bfloat16: {count} of {count} tensors, which were float32" in out and "exported without a tokenizer" in out
    expected = {name: value.astype(ml_dtypes.bfloat16) for name, value in load_file(GOLDEN / "model_tied" / SINGLE).items()}
    assert_equal_tensors(tensors_of(tmp_path / "out"), expected)


def settings_of(model, first: str, initial: str, parameter_dtype: str = "float32") -> Config:
    values = Config.from_config_dict(get_config())
    return dataclasses.replace(
        values,
        model=model,
        tokenizer=Tokenizer(path=str(GOLDEN / "tokenizer.json"), add_special_tokens=True),
        optimizer=dataclasses.replace(values.optimizer, parameter_dtype=parameter_dtype),
        phases=tuple(phase for phase in values.phases if first == "qwen3" or phase.architecture == "neo"),
        run=dataclasses.replace(values.run, initial=initial),
    )


@pytest.mark.parametrize("name", ["model_tied", "model_untied"])
def test_a_run_that_began_from_a_golden_model_gives_it_back(name, tmp_path):
    """Every field of config.json, and every tensor."""
    golden = GOLDEN / name
    values = read_config(golden / "config.json")
    settings = settings_of(neo_model(values, golden / "config.json"), "neo", str(golden))
    settings = dataclasses.replace(settings, tokenizer=Tokenizer(path=tokenizer_of(values, tmp_path), add_special_tokens=False))
    run = saved_run(tmp_path / "run", settings)
    assert run_export(f"checkpoint={run}", f"output={tmp_path / 'out'}") == DONE
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads((golden / "config.json").read_text())
    assert_equal_tensors(tensors_of(tmp_path / "out"), tensors_of(golden))


def test_every_phase_of_a_run_can_be_exported(tmp_path):
    """A Qwen3 becomes a NEO: RUN:PHASE and RUN:STEP; what began from random parameters describes itself; what is read again is the same."""
    settings = Config.from_config_dict(get_config())
    settings = dataclasses.replace(settings, tokenizer=Tokenizer(path=str(GOLDEN / "tokenizer.json"), add_special_tokens=True))
    run = saved_run(tmp_path / "run", settings, phases=3)
    scores = {"colour": FamilyResult(20, 0.95, 0.25, 0.3)}
    write_evaluation(run / "evaluations" / "00_text.json", EvaluationRecord("text", 1.0, (), scores))
    for place in ("text", "20"):
        assert run_export(f"checkpoint={run}:{place}", f"output={tmp_path / place}") == DONE
        opened = open_place(str(tmp_path / place))
        source = open_place(f"{run}:{place}")
        fields = ("hidden", "base_layers", "heads", "vocabulary", "tied", "rope_theta")
        assert all(getattr(opened.model, field) == getattr(settings.model, field) for field in fields)
        with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
            ours, theirs = source.parameters(), opened.parameters()
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_array_equal(theirs[name], value, err_msg=name)
    assert open_place(str(tmp_path / "text")).architecture == "qwen3" and open_place(str(tmp_path / "20")).model == dataclasses.replace(
        settings.model, initializer_range=open_place(str(tmp_path / "20")).model.initializer_range
    )
    assert open_place(f"{run}:pretrain").identity() == open_place(f"{run}:20").identity() != open_place(f"{run}:text").identity()
    card = (tmp_path / "20" / "README.md").read_text()
    for words in (
        "after step 20, in phase pretrain",
        "random parameters",
        "| text | qwen3 | all |",
        "| colour | 20 | 95.0 | 25.0 |",
        '"seed": 0',
    ):
        assert words in card, words
    assert (
        json.loads((tmp_path / "20" / "generation_config.json").read_text())["eos_token_id"]
        == open_tokenizer(tmp_path / "20")["<|im_end|>"]
    )
    assert (
        json.loads((tmp_path / "20" / "config.json").read_text())["img_context_token_id"]
        == open_tokenizer(tmp_path / "20")["<IMG_CONTEXT>"]
    )


def tokenizer_of(values: dict, folder: pathlib.Path) -> str:
    """Writes a tokenizer.json whose special tokens have the ids of this config.json; returns its path."""
    ids = {text: values[field] for field, text in IMAGE_TOKENS.items()}
    free = iter(number for number in range(values["llm_config"]["vocab_size"]) if number not in ids.values())
    ids |= {text: next(free) for text in SPECIAL_TOKENS if text not in ids}
    words = {f"word{number}": number for number in free}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words | ids, unk_token="word319"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def open_tokenizer(folder: pathlib.Path) -> dict[str, int]:
    """The ids of special tokens in the exported tokenizer, which lacks none."""
    return load_tokenizer(folder, add_special_tokens=False).special


def test_a_bfloat16_run_stays_one(tmp_path):
    settings = settings_of(Config.from_config_dict(get_config()).model, "qwen3", "", "bfloat16")
    run = saved_run(tmp_path / "run", settings)
    assert run_export(f"checkpoint={run}", f"output={tmp_path / 'out'}") == DONE
    assert {value.dtype for value in tensors_of(tmp_path / "out").values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def refused(capsys, *arguments: str) -> str:
    assert run_export(*arguments) == CONFIGURATION
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1
    return errors


def test_what_cannot_be_exported_is_said_and_nothing_is_left(tmp_path, capsys):
    out, tied = f"output={tmp_path / 'out'}", f"checkpoint={GOLDEN / 'model_tied'}"
    assert "is no folder" in refused(capsys, f"checkpoint={tmp_path / 'none'}", out)
    assert "config.json does not exist" in refused(capsys, f"checkpoint={tmp_path}", out)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    assert "exists: name a new folder" in refused(capsys, tied, f"output={tmp_path / 'used'}")
    (tmp_path / "cut").mkdir()
    shutil.copy(GOLDEN / "model_tied" / "config.json", tmp_path / "cut")
    (tmp_path / "cut" / SINGLE).write_bytes((GOLDEN / "model_tied" / SINGLE).read_bytes()[:-100])
    assert "fetch it again" in refused(capsys, f"checkpoint={tmp_path / 'cut'}", out)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_a_run_s_checkpoint_that_is_not_there_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the demo's tokenizer is not
    out = f"output={tmp_path / 'out'}"
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert "holds no checkpoint yet" in refused(capsys, f"checkpoint={tmp_path / 'empty'}", out)
    run = saved_run(tmp_path / "run", Config.from_config_dict(get_config()))
    assert "has no checkpoint of step 7; it keeps those of 10" in refused(capsys, f"checkpoint={run}:7", out)
    assert "no checkpoint of a phase 'sft'; it has some of text" in refused(capsys, f"checkpoint={run}:sft", out)
    assert "tokenizer runs/demo/corpus/tokenizer.model: no such file" in refused(capsys, f"checkpoint={run}", out)
    assert not (tmp_path / "out").exists()


def test_a_failure_half_way_leaves_nothing(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "save_file", fail)
    assert "cannot be written (No space left on device)" in refused(
        capsys, f"checkpoint={GOLDEN / 'model_tied'}", f"output={tmp_path / 'out'}"
    )
    assert list(tmp_path.iterdir()) == []
