"""Settings chosen by Optuna, with a made-up training program whose held-out loss is twice its learning rate. make test-search has the environment."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import sweep
from neo_jax.exit_codes import DONE, FAILED
from neo_jax.sweeps.dimensions import Choice, Integers, LogUniform, Uniform
from neo_jax.sweeps.search import ASKS, Search, Trial, ask

ROOT = pathlib.Path(__file__).parents[2]
FILE = '''"""Which rate is best?"""
from neo_jax.sweeps.dimensions import Choice, Integers, LogUniform, Uniform
from neo_jax.sweeps.search import Search
CONFIG = "{root}/configs/demo.py:smoke"
COMMAND = "fake_trainer"
RECORDS = {records!r}
SEARCH = Search(space={{{space}}}, trials={trials}, seed=3)
'''
RATE = '"phases.*.learning_rate": LogUniform(1e-4, 1.0)'
SPACE = {"rate": LogUniform(1e-4, 1.0), "share": Uniform(0, 1), "layers": Integers(1, 4), "mask": Choice("causal", "mixed")}


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests/launch"), os.environ.get("PYTHONPATH", "")]))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def write(folder: pathlib.Path, space: str = RATE, trials: int = 5) -> None:
    text = FILE.format(root=ROOT, space=space, trials=trials, records=str(folder / "records"))
    (folder / "rates.py").write_text(text)


def call(folder: pathlib.Path, action: str = "run", *more: str, sweeps: str = "sweeps") -> int:
    return sweep.main([action, str(folder / "rates.py"), f"--folder={folder / sweeps}", *more])


def settings(folder: pathlib.Path, sweeps: str = "sweeps") -> list[dict]:
    return [json.loads(line)["settings"] for line in (folder / sweeps / "rates/list.jsonl").read_text().splitlines()]


def sought(count: int, value=lambda each: each["rate"], seed: int = 0) -> list[Trial]:
    """Returns trials of a search without runs."""
    search, trials = Search(space=SPACE, trials=count, seed=seed), []
    for _ in range(count):
        found = ask(search, trials, lambda each: each)
        trials.append(Trial(found, True, value(found)))
    return trials


def test_proposals_lie_in_the_space_and_are_those_of_the_seed() -> None:
    first, again, other = sought(16), sought(16), sought(16, seed=1)
    assert first == again and first != other
    assert all(Search(space=SPACE, trials=1).holds(each.settings) for each in first)
    assert len({each.settings["rate"] for each in first}) == 16  # a study built anew must not draw the same again


def test_the_better_region_is_found() -> None:
    """The rate's logarithm is uniform over four decades at first: by chance a quarter lies in the best one."""
    best = sum(each.settings["rate"] < 1e-3 for seed in range(3) for each in sought(30, seed=seed)[15:])
    assert best > 0.5 * 3 * 15


def test_failed_and_running_trials() -> None:
    search = Search(space=SPACE, trials=99)
    trials = sought(15)
    without = [*trials, Trial(trials[0].settings, True, None), Trial(trials[1].settings, False, None)]
    assert search.holds(ask(search, without, lambda each: each))


def test_nothing_new_ends_the_asking() -> None:
    refused: list[dict] = []
    assert ask(Search(space=SPACE, trials=9), [], lambda each: refused.append(each)) is None
    assert len(refused) == ASKS


def test_a_search_runs(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, RATE, 4)
    assert call(folder, "run", "--parallel=2") == DONE
    assert "4 finished" in capsys.readouterr().out and len(settings(folder)) == 4
    assert call(folder) == DONE  # nothing is left to do
    assert call(folder, "results") == DONE
    assert capsys.readouterr().out.count("1 of 1") == 4
    write(folder, RATE, 5)
    assert call(folder) == DONE
    assert len(settings(folder)) == 5


def test_recorded_runs_are_chosen_again_and_not_launched(folder: pathlib.Path) -> None:
    write(folder, RATE, 3)
    assert call(folder) == DONE
    assert call(folder, sweeps="elsewhere") == DONE
    assert settings(folder, "elsewhere") == settings(folder)
    assert not (folder / "elsewhere/rates/starts.txt").exists()


def test_it_goes_on_after_a_kill_of_the_launcher(folder: pathlib.Path) -> None:
    write(folder, f'{RATE}, "phases.text.steps": Choice(40)', 4)
    command = [sys.executable, "-m", "launch.sweep", "run", str(folder / "rates.py"), f"--folder={folder / 'sweeps'}"]
    launcher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("sweeps/rates/runs/*/metrics.jsonl"))) < 2:
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.02)
    launcher.kill()
    launcher.wait()
    begun = settings(folder)
    time.sleep(0.2)  # until its run has ended with it
    assert call(folder) == DONE
    assert settings(folder)[: len(begun)] == begun and len(settings(folder)) == 4
    for path in (folder / "records").iterdir():
        path.unlink()
    assert call(folder, sweeps="undisturbed") == DONE
    assert settings(folder, "undisturbed") == settings(folder)


def test_equal_proposals_do_not_loop(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, '"run.seed": Integers(0, 2)', 9)
    assert call(folder) == DONE
    assert sorted(each["run.seed"] for each in settings(folder)) == [0, 1, 2]
    assert "the search proposes nothing new" in capsys.readouterr().err


def test_failed_runs_are_told_as_failed(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[Trial]] = []
    monkeypatch.setattr(
        "neo_jax.sweeps.searcher.ask", lambda search, trials, accept: told.append(list(trials)) or ask(search, trials, accept)
    )
    write(folder, '"run.seed": Choice(99, 1)', 2)
    assert call(folder) == FAILED
    write(folder, '"run.seed": Choice(99, 1, 2)', 3)
    assert call(folder) == FAILED
    values = {each.settings["run.seed"]: each for each in told[-1]}
    assert values[99].over and values[99].value is None
    assert values[1].over and values[1].value > 0
