"""run.trackers with the real packages and no network: wandb offline, MLflow into a folder. make test-tracking makes their environment."""

import json
import pathlib
import subprocess
import sys

import pytest

from neo_jax.runs.metrics import MetricsWriter, StepRecord
from neo_jax.runs.trackers import NAME, Tracker, check_trackers, open_trackers

CONFIGURATION = {"run": {"seed": 3, "directory": "x" * 3000}, "phases": {f"p{number}": {"steps": number} for number in range(120)}}


@pytest.fixture
def places(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server takes its place outside of tests
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "observed")
    run = tmp_path / "run"
    run.mkdir()
    return run


def record(step: int) -> StepRecord:
    return StepRecord(step=step, phase="text", tokens=10 * step, loss=1 / step, source_loss={"a": 2.0})


def train(run: pathlib.Path, names: tuple[str, ...], resumed: int, steps: range) -> None:
    trackers = open_trackers(names, run, CONFIGURATION)
    with MetricsWriter(run, resumed, trackers) as writer:
        for step in steps:
            writer.write(record(step))
        writer.write_score(steps[-1], "mmmu", 41.5)
        for tracker in trackers:  # what the writer gives a service five seconds for
            assert isinstance(tracker, Tracker)
            tracker.close()
    assert [tracker.lost for tracker in trackers] == [0] * len(names) and not any(tracker._warned for tracker in trackers)


def test_mlflow_goes_on_with_the_same_run(places):
    import mlflow

    check_trackers(("mlflow",))
    train(places, ("mlflow",), 0, range(1, 4))
    train(places, ("mlflow",), 3, range(4, 6))
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("observed")
    (found,) = client.search_runs([experiment.experiment_id])
    history = sorted(client.get_metric_history(found.info.run_id, "loss"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in range(1, 6)]
    assert client.get_metric_history(found.info.run_id, "source_loss/a") and client.get_metric_history(found.info.run_id, "benchmark/mmmu")
    assert found.data.params["run.seed"] == "3" and len(found.data.params) == 122
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")


def test_wandb_offline_goes_on_with_the_same_run(places):
    check_trackers(("wandb",))
    train(places, ("wandb",), 0, range(1, 4))
    train(places, ("wandb",), 3, range(4, 6))
    files = sorted((places / "wandb").glob("offline-run-*/*.wandb"))
    name = json.loads((places / NAME).read_text())["wandb"]
    assert len(files) == 2 and all(file.stem == f"run-{name}" for file in files)
    assert all(b"source_loss/a" in file.read_bytes() for file in files)


def test_the_packages_are_imported_only_when_named():
    program = "import sys, neo_jax.train; sys.exit(bool({'wandb', 'mlflow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
