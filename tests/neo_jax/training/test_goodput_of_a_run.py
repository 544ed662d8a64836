"""A run that is killed and continued: its buckets add up to the wall clock."""

import json
import pathlib

import pytest

from neo_jax.runs.goodput import read_goodput
from tests.neo_jax.training.running import metrics, run, start, wait_for, wait_for_step, write_config

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
