"""The sweep's driver: bounded, resumable after a kill, with rules; failed runs are kept and launched again."""

import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import sweep
from neo_jax.exit_codes import CONFIGURATION, DONE, FAILED, PREEMPTED
from neo_jax.sweeps.file import read_sweep
from neo_jax.sweeps.folder import SweepFolder

ROOT = pathlib.Path(__file__).parents[2]
FILE = '''"""Which rate is best?"""
from neo_jax.sweeps.choices import grid, seeds
from neo_jax.sweeps.rules import Halving, Threshold
CONFIG = "{root}/configs/demo.py:smoke"
COMMAND = "fake_trainer"
{rule}
def sweep():
    return {settings}
'''
TWO = 'grid({"phases.*.learning_rate": (0.1, 0.2), "run.seed": (0, 1)})'


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{pathlib.Path(__file__).parent}")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def write(folder: pathlib.Path, settings: str = TWO, rule: str = "") -> str:
    file = folder / "rates.py"
    file.write_text(FILE.format(root=ROOT, settings=settings, rule=rule))
    return str(file)


def call(folder: pathlib.Path, action: str, *more: str) -> int:
    return sweep.main([action, str(folder / "rates.py"), f"--folder={folder / 'sweeps'}", *more])


def events(folder: pathlib.Path) -> list[tuple[int, str]]:
    lines = (folder / "sweeps/rates/events.jsonl").read_text().splitlines()
    return [(each["index"], each["event"]) for each in map(json.loads, lines)]


def test_all_runs_finish_and_are_compared(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder)
    assert call(folder, "run", "--parallel=2") == DONE
    assert "4 finished" in capsys.readouterr().out
    assert call(folder, "results", f"--csv={folder}/a.csv", f"--html={folder}/a.html") == DONE
    out = capsys.readouterr().out
    assert "0.2000 ± 0.0000" in out and "0.4000 ± 0.0000" in out  # means over the two held-out sources and the two seeds
    assert len((folder / "a.csv").read_text().splitlines()) == 5
    assert "Parallel coordinates" in (folder / "a.html").read_text()
    assert call(folder, "run") == DONE  # nothing is left to do
    assert len((folder / "sweeps/rates/starts.txt").read_text().splitlines()) == 4


def test_no_more_runs_at_once_than_asked_for(folder: pathlib.Path) -> None:
    write(folder)
    assert call(folder, "run", "--parallel=2") == DONE
    running = most = 0
    for _, event in events(folder):
        running += {"started": 1, "ended": -1}[event]
        most = max(most, running)
    assert most == 2


def test_the_list_only_grows(folder: pathlib.Path) -> None:
    write(folder)
    assert call(folder, "run", "--parallel=4") == DONE
    write(folder, 'grid({"phases.*.learning_rate": (0.05, 0.2), "run.seed": (0,)})')
    assert call(folder, "run") == DONE
    lines = [json.loads(line) for line in (folder / "sweeps/rates/list.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[4]["settings"] == {"phases.*.learning_rate": 0.05, "run.seed": 0}  # 0.2 with seed 0 was there


def test_a_failed_run_is_kept_and_launched_again(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, 'grid({"run.seed": (0, 99)})')
    assert call(folder, "run") == FAILED
    assert "exit code 70 (a loss or a gradient is not finite)" in capsys.readouterr().out
    assert call(folder, "run") == FAILED  # not launched again by itself
    assert events(folder) == [(0, "started"), (0, "ended"), (1, "started"), (1, "ended")]
    (folder / "sweeps/rates/mended").touch()
    assert call(folder, "retry") == DONE
    assert call(folder, "run") == DONE
    (log,) = [path for path in (folder / "sweeps/rates/logs").iterdir() if "this seed fails" in path.read_text()]
    assert log.suffix == ".log"


def test_a_threshold_ends_runs(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, 'grid({"phases.*.learning_rate": (0.1, 0.4), "phases.text.steps": (120,)})', "RULE = Threshold(step=5, above=0.5)")
    assert call(folder, "run", "--parallel=2") == DONE
    out = capsys.readouterr().out
    assert "1 finished, 1 stopped" in out and "heldout 0.8 at step 5, above 0.5" in out


def test_halving_ends_the_worse_settings(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one run at a time, each is saved at the step and waits until the others have been there."""
    settings = 'seeds(grid({"phases.*.learning_rate": (0.4, 0.1, 0.3, 0.2), "phases.text.steps": (120,)}), 2)'
    write(folder, settings, "RULE = Halving(steps=(5, 50))")
    assert call(folder, "run", "--parallel=3") == DONE
    out = capsys.readouterr().out
    assert "2 finished" in out and "6 stopped" in out
    assert out.count("at step 5, place") == 4 and out.count("at step 50, place 2 of 2; 1 go on") == 2
    finished = [line for line in out.splitlines() if " finished " in line]
    assert all(" 0.1 " in line for line in finished) and len(finished) == 2


def launch(folder: pathlib.Path) -> subprocess.Popen[bytes]:
    write(folder, 'grid({"phases.*.learning_rate": (0.1, 0.2, 0.3), "phases.text.steps": (150,)})')
    command = [sys.executable, "-m", "launch.sweep", "run", str(folder / "rates.py"), f"--folder={folder / 'sweeps'}", "--parallel=2"]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((folder / "sweeps").glob("rates/runs/*/metrics.jsonl"))) < 2:
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.02)
    return driver


def alive(folder: pathlib.Path) -> int:
    count = 0
    for path in (folder / "sweeps").glob("rates/runs/*/alive"):
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                count += 1
    return count


def test_it_goes_on_after_a_kill_of_the_driver(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    driver = launch(folder)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 10
    while alive(folder):  # no run outlives it
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert call(folder, "status") == DONE
    out = capsys.readouterr().out  # on a slow machine one may have finished before the kill
    assert "waiting" in out and "running" not in out
    with (folder / "sweeps/rates/events.jsonl").open("a") as file:
        file.write('{"time": 1, "ind')  # a line that the kill has cut
    assert call(folder, "run", "--parallel=3") == DONE
    out = capsys.readouterr().out
    assert "3 finished" in out
    for path in (folder / "sweeps").glob("rates/runs/*/metrics.jsonl"):  # it went on where it was
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1))


def test_what_a_killed_driver_had_begun_comes_first(folder: pathlib.Path) -> None:
    """Elsewhere than on this machine it still goes on, and would be one run too many."""
    swept = SweepFolder(folder / "sweeps/rates")
    swept.path.mkdir(parents=True)
    swept.add(read_sweep(write(folder), folder / "sweeps").runs)
    swept.record(swept.listed()[2], "started")
    assert call(folder, "run") == DONE
    assert [index for index, event in events(folder) if event == "started"] == [2, 2, 0, 1, 3]


def test_stop_ends_the_driver_and_its_runs(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    driver = launch(folder)
    assert call(folder, "run") == CONFIGURATION  # one at a time
    assert f"is being run by process {driver.pid}" in capsys.readouterr().err
    assert call(folder, "stop") == DONE
    assert driver.wait(10) == PREEMPTED
    assert alive(folder) == 0
    assert call(folder, "stop") == DONE
    assert "nothing runs the sweep" in capsys.readouterr().out


def test_a_launcher_on_another_host_is_not_stopped_here(folder: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """Its process number may be another program's on this one."""
    write(folder)
    with SweepFolder(folder / "sweeps/rates").lock():
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        assert call(folder, "stop") == CONFIGURATION
    assert "is being run on" in capsys.readouterr().err


def test_dry_run_launches_nothing(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder)
    assert call(folder, "run", "--dry-run") == DONE
    assert capsys.readouterr().out.count(" new ") == 4
    assert not (folder / "sweeps").exists()


@pytest.mark.parametrize(
    ("settings", "rule", "sentence"),
    [
        ("[]", "", "has no sweep() that returns a list of settings"),
        ('[{"run.sed": 1}]', "", "setting 0 (run.sed=1): run.sed: unknown key 'sed'; did you mean 'seed'?"),
        ('[{"run.seed": -1}]', "", "setting 0 (run.seed=-1): run.seed"),
        ('[{"run.directory": "x"}]', "", "setting 0 sets run.directory, which the sweep chooses"),
        ('[{}, {"run.seed": 0}]', "", "setting 1 (run.seed=0) is the same run as setting 0"),
        ("[1]", "", "setting 0 is 1, must be a dictionary by dotted key"),
        ("1 / 0", "", "does not run as a sweep (ZeroDivisionError: division by zero)"),
        (TWO, "RULE = 3", "RULE must be a Threshold or a Halving"),
        (TWO, "RULE = Halving(steps=(9, 3), keep=2)", "keep is 2, must be between 0 and 1"),
        (TWO, 'RULE = Threshold(step=3, above=1, quantity="exact_match")', "quantity is 'exact_match', must be"),
    ],
)
def test_files_that_cannot_be_used(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str], settings: str, rule: str, sentence: str
) -> None:
    write(folder, settings, rule)
    assert call(folder, "run") == CONFIGURATION
    assert sentence in capsys.readouterr().err
    assert not (folder / "sweeps").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run"], "must be one of run, status, results, stop, retry and a sweep file"),
        (["go", "x.py"], "must be one of run, status, results, stop, retry and a sweep file"),
        (["run", "none.py"], "none.py: no such sweep file"),
        (["run", "x.py", "--processes=2"], "--devices: is missing: 2 processes need to know"),
        (["retry", str(ROOT / "configs/sweeps/learning_rate.py"), "--folder=/nonexistent"], "no run of learning_rate has been launched"),
    ],
)
def test_command_lines_that_cannot_be_used(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert sweep.main(arguments) == CONFIGURATION
    assert sentence in capsys.readouterr().err
