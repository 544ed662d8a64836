"""What can be seen of a run: its use of time over all starts, a trace, its page; and which trackers it refuses."""

import dataclasses
import json
import pathlib

import pytest

from neo_jax.config import ConfigError
from neo_jax.report import main as report
from neo_jax.runs import trackers
from neo_jax.runs.goodput import read_goodput
from neo_jax.runs.metrics import StepRecord
from neo_jax.training.console import Progress, step_line
from neo_jax.training.throughput import Throughput
from neo_jax.training.trainer import Trainer
from tests.neo_jax.training.running import metrics, run, start, wait_for, wait_for_step, write_config
from tests.neo_jax.training.tiny_run import tiny_config

pytestmark = pytest.mark.xdist_group("trainer")  # its programs are those of test_trainer.py


def test_killed_and_continued_it_accounts_for_every_second(corpus: pathlib.Path, tmp_path: pathlib.Path):
    directory = tmp_path / "run"
    file = write_config(
        corpus,
        directory,
        curriculum=("text",),
        phases__text__steps=40,
        run__checkpoint_every=10,
        run__heldout_every=0,
        run__profile_steps=(3, 4),
    )
    first = start(file)
    wait_for(first, (directory / "checkpoints" / "10").exists)
    wait_for_step(first, directory, 15)
    first.kill()
    first.communicate()
    done = metrics(directory)[-1]["step"]
    assert list((directory / "profile" / "00000003").rglob("*.xplane.pb"))
    killed, _ = read_goodput(directory)
    code, output = run(file)
    assert code == 0, output
    found, problems = read_goodput(directory)
    assert problems == [] and found.starts == 2
    assert found.total == pytest.approx(found.ended - found.began, abs=1e-3)
    assert {bucket for bucket, seconds in found.seconds.items() if seconds > 0} >= {
        *("start", "compile", "data", "step", "save", "restore", "evaluation", "idle")
    }
    resumed = int(output.split("resumed after step ")[1].split(",")[0])
    assert (found.seconds["replayed"] > 0) == (resumed < done)
    assert killed.total < found.total and killed.seconds["compile"] > 0
    lines = [json.loads(text) for text in (directory / "goodput.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 41, "the loop asked for a step behind the last one"
    assert report([str(directory), f"--output={tmp_path / 'page.html'}"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert 'class="b-compile"' in page and "<h2>Curves</h2>" in page and "<h2>Samples</h2>" in page and "start 2 on " in page


def test_a_tracker_whose_package_is_missing_is_refused_before_anything_is_written(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("neo_jax.training.trainer.phase_problems", lambda *_: [])  # the rows do not divide over the tests' devices
    settings = tiny_config(corpus, tmp_path / "run")
    settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, trackers=("mlflow",)))
    with pytest.raises(ConfigError, match=r"mlflow is not installed: pip install --no-deps -r requirements-tracking.txt"):
        Trainer(settings, Progress(silent=True)).run()
    assert not (tmp_path / "run").exists()


def test_the_live_line_says_how_much_of_the_time_went_into_waiting_for_rows(corpus, tmp_path, monkeypatch):
    """Steps of 2 s, of which the first waited 9 s before the speed was measured, and the others a half."""
    settings = tiny_config(corpus, tmp_path / "run")
    phase = settings.phases[0]
    throughput = Throughput(settings.model, phase, {})
    ticks = iter([100.0, 102.0, 104.0])
    monkeypatch.setattr("neo_jax.training.throughput.time.monotonic", lambda: next(ticks))
    speeds = [throughput.step_ended(100 * number, 0.0, waited) for number, waited in ((1, 9.0), (2, 0.5), (3, 0.5))]
    assert speeds[0] is None and speeds[2].input_wait == pytest.approx(0.25)
    record = StepRecord(step=3, phase=phase.name, tokens=300, loss=1.0, gradient_norm=1.0, learning_rate=1e-3, fill=1.0)
    assert "50 tokens/s  input 25%" in step_line(phase, 3, record, speeds[2])
