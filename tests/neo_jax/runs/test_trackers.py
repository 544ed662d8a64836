"""Services that hang, fail or are missing never end a run. The packages themselves: tests/tracking."""

import json
import threading

import pytest

from neo_jax.config import ConfigError
from neo_jax.runs import trackers
from neo_jax.runs.metrics import MetricsWriter, StepRecord
from neo_jax.runs.trackers import Tracker, check_trackers


class StandIn:
    """A service that records what it gets, or fails."""

    def __init__(self, fails: tuple[int, ...] = ()):
        self.fails, self.got, self.closed = fails, [], False

    def write(self, step, values):
        if step in self.fails:
            raise ConnectionError("503")
        self.got.append((step, values))

    def close(self):
        self.closed = True


def record(step: int) -> StepRecord:
    return StepRecord(step=step, phase="text", tokens=10 * step, loss=float(step), source_loss={"a": 2.0}, heldout_loss={"b": 3.0})


def test_a_writer_gets_all_numbers_by_name(tmp_path):
    service = StandIn()
    with MetricsWriter(tmp_path, 0, [Tracker("stand-in", lambda: service)]) as writer:
        writer.write(record(1))
        writer.write_score(1, "mmmu", 40.0)
    assert service.got == [(1, {"tokens": 10, "loss": 1.0, "source_loss/a": 2.0, "heldout_loss/b": 3.0}), (1, {"benchmark/mmmu": 40.0})]
    assert service.closed


def test_failures_are_reported_once_and_counted(tmp_path, caplog):
    service = StandIn(fails=(2, 3, 4))
    tracker = Tracker("stand-in", lambda: service)
    with MetricsWriter(tmp_path, 0, [tracker]) as writer:
        for step in range(1, 7):
            writer.write(record(step))
    assert [step for step, _ in service.got] == [1, 5, 6] and tracker.lost == 3
    assert [message for message in caplog.messages if "503" in message] == [
        "stand-in fails (503): the run goes on, and further failures are only counted"
    ]
    assert "did not take the numbers of 3 steps" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_service_that_is_not_reached_ends_nothing(caplog):
    def opened():
        raise TimeoutError("no route to host")

    tracker = Tracker("stand-in", opened)
    for step in range(3):
        tracker.write(step, {"loss": 1.0})
    tracker.close()
    assert tracker.lost == 3 and "no route to host" in caplog.text


def test_a_service_that_hangs_holds_nothing_up(monkeypatch, caplog):
    monkeypatch.setattr(trackers, "WAITING", 4)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.1)
    release = threading.Event()
    service = StandIn()
    service.write = lambda step, values: release.wait(60)
    tracker = Tracker("stand-in", lambda: service)
    for step in range(20):
        tracker.write(step, {"loss": 1.0})
    tracker.close()
    assert tracker.lost >= 15 and "it takes nothing" in caplog.text and "last numbers" in caplog.text
    release.set()


def test_a_missing_package_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"run.trackers: the package of wandb is not installed: pip install --no-deps -r requirements-tracking.txt"
    ):
        check_trackers(("wandb",))


def test_ids_of_several_services_stay_in_one_file(tmp_path):
    trackers._remember(tmp_path, "wandb", "a")
    trackers._remember(tmp_path, "mlflow", "b")
    assert json.loads((tmp_path / trackers.NAME).read_text()) == {"wandb": "a", "mlflow": "b"}
    (tmp_path / trackers.NAME).write_text("{")
    assert trackers._known(tmp_path, "wandb") is None
