"""A sweep as a job array of a real SLURM, with a stand-in for the trainer: a failed run, a killed one, stop, and nothing submitted twice."""

import json
import pathlib

import pytest

from launch import sweep
from neo_jax.exit_codes import CONFIGURATION, DONE, FAILED
from tests.slurm.conftest import ROOT, slurm, wait_for

FILE = '''"""Which rate is best?"""
from neo_jax.sweeps.choices import grid
CONFIG = "{root}/configs/demo.py:smoke"
COMMAND = "fake_trainer"
RECORDS = "{records}"
def sweep():
    return [
        {{"phases.*.learning_rate": 0.1}},
        {{"phases.*.learning_rate": 0.2, "run.seed": 99}},  # fails until there is a file "mended"
        {{"phases.*.learning_rate": 0.3, "phases.text.steps": {steps}}},
        {{"phases.*.learning_rate": 0.4, "phases.text.steps": {steps}}},
    ]
'''


@pytest.fixture
def folder(cluster: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(ROOT)
    return tmp_path


def write(folder: pathlib.Path, steps: int) -> None:
    (folder / f"{folder.name}.py").write_text(FILE.format(root=ROOT, records=folder / "records", steps=steps))


def call(folder: pathlib.Path, action: str, *more: str) -> int:
    """Calls a sweep that is named as the test's folder: job arrays are found by this name."""
    return sweep.main([action, str(folder / f"{folder.name}.py"), f"--folder={folder / 'sweeps'}", *more])


def events(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "sweeps" / folder.name / "events.jsonl").read_text().splitlines()]


def count(folder: pathlib.Path, event: str, index: int | None = None) -> int:
    return sum(each["event"] == event and index in (None, each["index"]) for each in events(folder))


def queue() -> str:
    return slurm("squeue", "--noheader", "--array")


def wait_for_end(folder: pathlib.Path) -> None:
    wait_for("SLURM holds no task", lambda: not queue())


def test_a_failed_and_a_killed_run(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, 150)
    assert call(folder, "run", "--target=slurm", "--parallel=3") == DONE
    assert call(folder, "run", "--target=slurm") == DONE  # submits nothing twice
    assert call(folder, "run") == CONFIGURATION  # nor does this machine launch what SLURM holds
    assert "are queued or running on SLURM" in capsys.readouterr().err
    array = events(folder)[0]["task"].partition("_")[0]
    wait_for("run 2 trains", lambda: list((folder / "sweeps").glob("*/runs/*/checkpoints/20")) and count(folder, "started", 2))
    slurm("scancel", "--signal=KILL", f"{array}_2.0")  # its step, not its batch shell
    wait_for_end(folder)
    assert [each["index"] for each in events(folder)[:4]] == [0, 1, 2, 3] and count(folder, "submitted") == 4

    assert call(folder, "status") == DONE
    out = capsys.readouterr().out
    assert "3 finished, 1 failed" in out and "exit code 70 (a loss or a gradient is not finite)" in out
    assert count(folder, "started", 2) == 2 and count(folder, "started", 3) == 1
    for path in (folder / "sweeps").glob("*/runs/*/metrics.jsonl"):  # the killed one went on where it was
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1))
    records = (folder / "records" / f"{folder.name}.jsonl").read_text().splitlines()
    assert len(records) == 3  # status has recorded them

    (folder / "sweeps" / folder.name / "mended").touch()
    assert call(folder, "run", "--target=slurm") == FAILED  # not submitted again by itself
    assert call(folder, "retry") == DONE
    assert call(folder, "run", "--target=slurm") == DONE
    wait_for_end(folder)
    assert call(folder, "results", f"--csv={folder}/a.csv") == DONE
    assert capsys.readouterr().out.count("1 of 1") == 4
    assert len((folder / "a.csv").read_text().splitlines()) == 5


def test_stop_saves_and_run_goes_on(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, 300)
    (folder / "sweeps" / folder.name).mkdir(parents=True)
    (folder / "sweeps" / folder.name / "mended").touch()
    assert call(folder, "run", "--target=slurm", "--parallel=1") == DONE
    wait_for("the third run trains", lambda: count(folder, "started", 2))
    wait_for("it saves", lambda: len(list((folder / "sweeps").glob("*/runs/*/checkpoints/40"))) == 1)
    assert call(folder, "stop") == DONE
    assert not queue()
    assert [(each["event"], each.get("code")) for each in events(folder) if each["index"] == 2][-1] == ("ended", 77)
    capsys.readouterr()
    assert call(folder, "status") == DONE
    assert "2 finished, 2 waiting" in capsys.readouterr().out
    assert call(folder, "stop") == DONE
    assert "nothing runs the sweep" in capsys.readouterr().out
    assert call(folder, "run", "--target=slurm", "--parallel=2") == DONE
    wait_for_end(folder)
    assert call(folder, "status") == DONE
    assert "4 finished" in capsys.readouterr().out
    steps = [len(path.read_text().splitlines()) for path in (folder / "sweeps").glob("*/runs/*/metrics.jsonl")]
    assert max(steps) == 300 + 15


def test_what_vanished_is_submitted_again(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """scancel of all that is queued, by hand: no event says so."""
    write(folder, 20)
    (folder / "sweeps" / folder.name).mkdir(parents=True)
    (folder / "sweeps" / folder.name / "mended").touch()
    assert call(folder, "run", "--target=slurm", "--sbatch=hold") == DONE
    capsys.readouterr()
    assert call(folder, "status") == DONE
    assert "4 queued" in capsys.readouterr().out
    slurm("scancel", events(folder)[0]["task"].partition("_")[0])
    wait_for_end(folder)
    assert call(folder, "status") == DONE
    assert "4 waiting" in capsys.readouterr().out
    assert call(folder, "run", "--target=slurm", "--parallel=4") == DONE
    assert count(folder, "lost") == 4
    wait_for_end(folder)
    assert call(folder, "status") == DONE
    assert "4 finished" in capsys.readouterr().out


def test_sbatch_refuses(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, 20)
    assert call(folder, "run", "--target=slurm", "--sbatch=partition=none") == CONFIGURATION
    assert "invalid partition specified: none" in capsys.readouterr().err
    assert call(folder, "status") == DONE
    assert "4 waiting" in capsys.readouterr().out
