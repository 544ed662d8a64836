"""The runner and the comparisons of the drills fail where they should: a drill that did not happen does not pass."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from drills import __main__ as runner
from drills import document, soak
from drills.lab import DrillError, Lab, Run, descendants, expect, gone, kill, same

ROOT = pathlib.Path(__file__).parents[2]


def write_run(directory: pathlib.Path, losses: list[float], answer: str = "red") -> pathlib.Path:
    (directory / "evaluations").mkdir(parents=True)
    lines = [{"step": step, "loss": loss, "tokens": 10 * step, "phase": "mid"} for step, loss in enumerate(losses, 1)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (directory / "evaluations/00-mid.json").write_text(json.dumps({"answers": [answer]}))
    return directory


def test_runs_are_compared_bit_for_bit_or_to_a_tolerance(tmp_path):
    one = write_run(tmp_path / "one", [2.0, 1.5])
    near = write_run(tmp_path / "near", [2.0, 1.5 + 1e-6])
    assert same(one, one) == "2 steps and 1 evaluations equal bit for bit"
    assert "2 steps equal to" in same(near, one, exactly=False)
    for other, exactly, sentence in (
        (near, True, "loss of step 2"),
        (write_run(tmp_path / "far", [2.0, 1.6]), False, "loss of step 2"),
        (write_run(tmp_path / "nan", [2.0, float("nan")]), False, "loss of step 2"),
        (write_run(tmp_path / "short", [2.0]), True, "its steps are [1]"),
        (write_run(tmp_path / "answers", [2.0, 1.5], "blue"), True, "answers to held-out questions differ"),
    ):
        with pytest.raises(DrillError, match=re.escape(sentence)):
            same(other, one, exactly)
    with pytest.raises(DrillError, match="has no steps"):
        same(one, write_run(tmp_path / "none", []))


def command(tmp_path: pathlib.Path, code: str) -> Run:
    return Run([sys.executable, "-c", code], {}, tmp_path / "run", tmp_path / "output.txt")


def test_a_command_that_ends_otherwise_fails_the_drill(tmp_path):
    with pytest.raises(DrillError, match=r"exit code 3, not 0: .*said"):
        command(tmp_path, "print('said'); raise SystemExit(3)").end(0)
    with pytest.raises(DrillError, match="ended with 0 before step 5 was logged"):
        command(tmp_path, "pass").until_step(5)
    run = command(tmp_path, "pass")
    run.end(0)
    with pytest.raises(DrillError, match="gone already"):
        kill(run.process.pid)
    with pytest.raises(DrillError, match="ended with 0 before it was killed"):
        run.kill()


def test_nothing_of_a_drill_outlives_it(tmp_path):
    lab = Lab(tmp_path)
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
    with lab.scratch("any") as folder:
        run = lab.start([sys.executable, "-c", code], folder / "run")
        run.until(lambda: descendants(run.process.pid), "it has started another")
        child = descendants(run.process.pid)[0]
    deadline = time.monotonic() + 30
    while not gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert run.process.returncode == -signal.SIGKILL and not folder.exists()


def holds(lab: Lab, folder: pathlib.Path) -> str:
    """It holds."""
    return "all | well"


def fails(lab: Lab, folder: pathlib.Path) -> str:
    """It does not hold."""
    expect(False, "it happened not")
    return ""


def breaks(lab: Lab, folder: pathlib.Path) -> str:
    """It cannot be carried out."""
    raise OSError("no such place")


def test_the_runner_counts_and_writes_its_table(tmp_path, monkeypatch, capsys):
    page = tmp_path / "drills.md"
    page.write_text("before\n" + "\n".join((*document.MARKS, *document.SOAK_MARKS)) + "\nafter\n")
    monkeypatch.setattr(Lab, "prepare", lambda self: None)
    monkeypatch.setattr(runner, "DRILLS", {"holds": holds, "fails": fails, "breaks": breaks})
    monkeypatch.setattr(runner, "write_drills", lambda outcomes: document.write_drills(outcomes, page))
    folder = f"--folder={tmp_path / 'lab'}"
    assert runner.main([folder, "holds"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 drills passed"
    assert runner.main([folder, "--write"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 of 3 drills passed" and "it happened not | FAILED" in lines[1] and "no such place | FAILED" in lines[2]
    document.write_soak(["24 phases"], 60, page)
    document.write_soak(["25 phases"], 60, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "24 phases" not in text and "- 25 phases" in text
    assert "| holds | It holds. | all \\| well | passed |" in text and "**1 of 3 drills passed**" in text


def test_growth_fails_the_soak():
    flat = [{number: soak.Held(100 << 20, 30, 50) for number in (0, 1)} for _ in range(soak.PHASES)]
    assert "100 MiB (+0.0%)" in soak.growth(flat)
    for more in (soak.Held(110 << 20, 30, 50), soak.Held(100 << 20, 40, 50), soak.Held(100 << 20, 30, 60)):
        with pytest.raises(DrillError, match="it grows: process 1"):
            soak.growth([*flat[:-1], {0: flat[0][0], 1: more}])


def test_every_drill_says_its_criterion_and_the_page_names_it():
    listed = subprocess.run([sys.executable, "-m", "drills", "--list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "drills.md").read_text()
    names = [line.partition(":")[0] for line in listed.splitlines()]
    assert len(names) == len(runner.DRILLS) >= 40
    for line in listed.splitlines():
        name, _, criterion = line.partition(": ")
        assert criterion.endswith(".") and f"| {name} | {criterion} |" in page, f"{name}: make drills ARGS=--write"
