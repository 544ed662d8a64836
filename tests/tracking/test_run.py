"""A run with both services that is killed and continued."""

import os
import pathlib

import pytest

from tests.neo_jax.training.conftest import corpus  # noqa: F401 (a fixture)
from tests.neo_jax.training.running import metrics, run, start, wait_for, wait_for_step, write_config


def test_a_killed_run_goes_on_in_the_same_runs_of_the_services(corpus, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    import mlflow

    for key, value in {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlflow").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():
        monkeypatch.setitem(os.environ, key, value)
    directory = tmp_path / "run"
    settings = {"curriculum": ("text",), "phases__text__steps": 30, "run__checkpoint_every": 10, "run__trackers": ("wandb", "mlflow")}
    file = write_config(corpus, directory, **settings)
    first = start(file)
    wait_for(first, (directory / "checkpoints" / "10").exists)
    wait_for_step(first, directory, 13)
    first.kill()
    first.communicate()
    code, output = run(file)
    assert code == 0, output
    assert "fails" not in output
    (found,) = mlflow.MlflowClient().search_runs([mlflow.MlflowClient().get_experiment_by_name("neo_jax").experiment_id])
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "loss")
    assert {metric.step: metric.value for metric in history} == {line["step"]: line["loss"] for line in metrics(directory)}
    assert len({path.stem for path in (directory / "wandb").glob("offline-run-*/*.wandb")}) == 1
