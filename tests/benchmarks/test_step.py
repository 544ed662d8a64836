"""The benchmark of the training step: what it records, what it refuses, how it takes turns."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import step
from benchmarks.worker import Worker, WorkerError

ROOT = pathlib.Path(__file__).parents[2]
SERVE = """
import sys
from benchmarks.worker import serve
print("a library's line")
serve({"slow": lambda steps: 3.0 * steps, "fast": lambda steps: 1.0 * steps})
"""
RECORD = """
import pathlib, sys
import numpy as np
from benchmarks import train_step
train_step.STEPS = 2
if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    train_step.prepare(folder / "corpus", train_step.SCENES)
    timed = train_step.Step(train_step.phase_settings("mid_512", folder))
    np.savez(folder / "step.npz", **timed.record)
    assert timed.seconds(3) > 0
"""


def worker(code: str) -> Worker:
    return Worker([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"])


def test_programs_take_turns(monkeypatch):
    one, other = worker(SERVE), worker(SERVE)
    monkeypatch.setattr(step, "ROUNDS", 2)
    times = step.time_in_turns({"ours": (one, "fast"), "torch": (other, "slow")})
    assert times == {"ours": [1000.0] * 2, "torch": [3000.0] * 2}
    one.close()
    other.close()


def test_a_worker_that_ends_is_an_error():
    with pytest.raises(WorkerError, match="ended with exit code 3"):
        worker("sys.exit(3)")


def test_losses_that_differ_are_refused():
    ours = np.linspace(3, 2, 10)
    assert step.loss_difference(ours, {"eager": ours + 5e-5, "compile": ours - 2e-5}) == pytest.approx(5e-5)
    for wrong in (2e-4, np.nan):
        losses = ours.copy()
        losses[6] += wrong
        with pytest.raises(ValueError, match="losses of compile differ from ours at step 7"):
            step.loss_difference(ours, {"eager": ours, "compile": losses})


def test_the_result():
    times = {"ours": [110.0, 100.0, 150.0], "torch_eager": [310.0, 300.0, 420.0], "torch_compile": [260.0, 250.0, 250.0]}
    row = step.result_row(512, 4, 1e-6, times)
    assert {
        "context": 512,
        "ours_ms": 100.0,
        "torch_eager_ms": 300.0,
        "torch_compile_ms": 250.0,
        "loss_difference": 1e-6,
    }.items() <= row.items()
    assert row["median_ms"]["ours"] == 110.0 and row["slowest_ms"]["torch_eager"] == 420.0
    assert step.table([row]).splitlines()[1].split() == ["512", "x", "4", "100.0", "300.0", "250.0", "3.00", "2.50", "1.0e-06"]


def test_the_committed_result_has_its_columns():
    result = json.loads((ROOT / step.RESULT).read_text())
    assert {row["context"] for row in result["rows"]} == {512, 1024}
    for row in result["rows"]:
        assert 0 < row["ours_ms"] <= row["median_ms"]["ours"] <= row["slowest_ms"]["ours"]
        assert row["torch_eager_ms"] > 0 and row["torch_compile_ms"] > 0 and row["loss_difference"] <= step.LARGEST_DIFFERENCE


@pytest.mark.nightly
def test_our_step_is_recorded_for_another_program(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", RECORD, str(tmp_path)], check=True, cwd=ROOT, env=environment)
    with np.load(tmp_path / "step.npz", allow_pickle=False) as file:
        record = dict(file)
    settings = json.loads(str(record["settings"]))
    assert settings["curriculum"] == ["mid_512"] and settings["tokenizer"]["path"].startswith(str(tmp_path))
    assert record["losses"].shape == record["learning_rate"].shape == (2,) and np.isfinite(record["losses"]).all()
    assert record["batch/tokens"].shape == (2, 4, 512) and record["batch/visual"].dtype == np.uint8
    assert (record["batch/loss_weights"] > 0).any()
    assert record["parameters/base.attention.q"].shape == (3, 128, 8, 16) and (record["parameters/final_norm"] == 1).all()
