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
        directory.claim()
    assert json.loads((tmp_path / "config.json").read_text())["run"]["seed"] == 2


def test_a_claimed_directory_is_for_its_configuration_alone(tmp_path):
    with RunDirectory(settings(tmp_path)) as directory:
        directory.claim()
    with pytest.raises(RunDirectoryError, match=r"run.seed: 0 -> 9"), RunDirectory(settings(tmp_path, seed=9)):
        pass
    with RunDirectory(settings(tmp_path, log_every=7)) as directory:
        directory.claim()
    assert "run.log_every: 1 -> 7" in (tmp_path / "config_changes.jsonl").read_text()


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
