"""Whose a run directory is: it is claimed when a run begins, and not by a start that failed before."""

import dataclasses
import json

import pytest

from configs.demo import get_config
from neo_jax.config import Config
from neo_jax.runs.directory import RunDirectory, RunDirectoryError


def settings(folder, **changes) -> Config:
    whole = Config.from_config_dict(get_config("smoke"))
    return dataclasses.replace(whole, run=dataclasses.replace(whole.run, directory=str(folder), **changes))


def test_a_start_that_fails_leaves_the_directory_free(tmp_path):
    with pytest.raises(ValueError, match="a path"), RunDirectory(settings(tmp_path, seed=1)):
        raise ValueError("a path that does not exist")
    with RunDirectory(settings(tmp_path, seed=2)) as directory:
        directory.claim([])
    assert json.loads((tmp_path / "config.json").read_text())["run"]["seed"] == 2


def test_a_claimed_directory_is_for_its_configuration_alone(tmp_path):
    with RunDirectory(settings(tmp_path)) as directory:
        directory.claim([])
    with pytest.raises(RunDirectoryError, match=r"run.seed: 0 -> 9"), RunDirectory(settings(tmp_path, seed=9)):
        pass
    with RunDirectory(settings(tmp_path, log_every=7)) as directory:
        directory.claim([])
    assert "run.log_every: 1 -> 7" in (tmp_path / "config_changes.jsonl").read_text()


def test_a_run_of_before_a_key_existed_goes_on_with_its_default(tmp_path):
    with RunDirectory(settings(tmp_path)) as directory:
        directory.claim([])
    values = json.loads((tmp_path / "config.json").read_text())
    del values["optimizer"]["z_loss"]
    for phase in values["phases"].values():
        del phase["decay_ratio"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with RunDirectory(settings(tmp_path)):
        pass
    other = settings(tmp_path)
    other = dataclasses.replace(other, optimizer=dataclasses.replace(other.optimizer, z_loss=1e-4))
    with pytest.raises(RunDirectoryError, match=r"optimizer.z_loss: 0.0 -> 0.0001"), RunDirectory(other):
        pass


def changed(folder, mixture, **limits) -> Config:
    """A run whose phase `captions` has this mixture, and its source `text` these limits."""
    values = settings(folder).resolved()
    values["phases"]["captions"]["mixture"] |= mixture
    values["data"]["sources"]["text"] |= limits
    return Config.from_config_dict(values)


def test_what_was_planned_before_a_change_is_remembered(tmp_path):
    begun = ["text", "pretrain", "captions"]
    with RunDirectory(settings(tmp_path)) as directory:
        assert directory.earlier("captions", 1024) == []
        directory.claim(begun)
    with RunDirectory(changed(tmp_path, {"text": 3.0})) as directory:  # takes no step up to row 1024
        directory.check_changes(begun)
        first = directory.earlier("captions", 1024)
        directory.claim(begun, step=7)
    change = json.loads((tmp_path / "config_changes.jsonl").read_text())
    assert change["step"] == 7 and change["changed"] == ["phases.captions.mixture.text: 0.2 -> 3.0"]
    assert [(each.phase, each.until, each.mixture["text"]) for each in first] == [("captions", 1024, 0.2)]
    with RunDirectory(changed(tmp_path, {"text": 5.0})) as directory:
        assert directory.earlier("captions", 1024) == first
        directory.claim(begun)
    with RunDirectory(changed(tmp_path, {"text": 5.0}, keep=("tokens > 3",))) as directory:
        assert directory.earlier("captions", 0) == first, "before the first row everything may change"
        second = directory.earlier("captions", 2048)
        directory.claim(begun)
    assert second[0] == first[0] and len(second) == 2
    assert (second[1].until, second[1].mixture["text"], second[1].limits["text"].keep) == (2048, 5.0, ())
    with RunDirectory(changed(tmp_path, {"text": 5.0}, keep=("tokens > 3",))) as directory:
        assert directory.earlier("captions", 3072) == second
    (tmp_path / "planned_before.json").write_text("[{}]")
    with (
        pytest.raises(RunDirectoryError, match="says how rows of phases whose mixture changed are planned"),
        RunDirectory(settings(tmp_path)),
    ):
        pass


def test_a_phase_that_is_begun_may_not_change_otherwise(tmp_path):
    with RunDirectory(settings(tmp_path)) as directory:
        directory.claim([])
    values = settings(tmp_path).resolved()
    values["phases"]["captions"]["steps"] = 9
    with RunDirectory(Config.from_config_dict(values)) as directory:
        directory.check_changes(["text", "pretrain"])
        with pytest.raises(RunDirectoryError, match=r"phases\.captions\.steps: 3 -> 9"):
            directory.check_changes(["text", "pretrain", "captions"])


def test_two_processes_do_not_share_it(tmp_path):
    with (
        RunDirectory(settings(tmp_path)),
        pytest.raises(RunDirectoryError, match="is in use by another process"),
        RunDirectory(settings(tmp_path)),
    ):
        pass


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints/40/state"])
def test_a_run_without_its_configuration_is_not_begun_anew(tmp_path, left):
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(RunDirectoryError, match=r"metrics or checkpoints and no config\.json"), RunDirectory(settings(tmp_path)):
        pass


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_damaged_configuration_is_one_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=r"config\.json .*restore it"), RunDirectory(settings(tmp_path)):
        pass


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot be written"), RunDirectory(settings(tmp_path / "file" / "run")):
        pass
