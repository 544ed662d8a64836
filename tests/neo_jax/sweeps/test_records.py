"""Finished runs as lines of JSON: recorded once, by several processes, and not run again by sweeps that share the folder."""

import concurrent.futures
import json
import pathlib

import pytest

from launch import sweep
from neo_jax.config import ConfigError
from neo_jax.exit_codes import CONFIGURATION, DONE
from neo_jax.sweeps.file import read_sweep
from neo_jax.sweeps.folder import Listed, State, SweepFolder
from neo_jax.sweeps.outcomes import Outcome
from neo_jax.sweeps.records import Records, record_finished

ROOT = pathlib.Path(__file__).parents[3]
FILE = '''"""Which rate is best?"""
from neo_jax.sweeps.choices import grid
CONFIG = "{root}/configs/demo.py:smoke"
COMMAND = "{command}"
RECORDS = "{records}"
def sweep():
    return grid({{"phases.*.learning_rate": {rates}}})
'''
BARE = {"run": "x", "settings": {}, "steps": 1, "tokens": 1, "seconds": 1.0, "tokens_per_second": None, "quantities": {}, "curves": {}}


def write(folder: pathlib.Path, name: str = "rates", rates: str = "(0.1, 0.2)", command: str = "fake_trainer") -> str:
    file = folder / f"{name}.py"
    file.write_text(FILE.format(root=ROOT, records=folder / "records", rates=rates, command=command))
    return str(file)


def call(folder: pathlib.Path, action: str, file: str, *more: str) -> int:
    return sweep.main([action, file, f"--folder={folder / 'sweeps'}", *more])


def outcome(name: str, heldout: float = 1.0) -> Outcome:
    curves = {"loss": [(1.0, 1 / 3)], "heldout": []}
    return Outcome(Listed(0, name, {"run.seed": 0}), State("finished"), 5, 5, 100, 60.04, {"heldout": heldout}, 50.0, curves, ())


def finished(folder: pathlib.Path, file: str) -> SweepFolder:
    """Returns the folder of a sweep whose first run has finished and whose second has not begun."""
    contents = read_sweep(file, folder / "sweeps")
    swept = SweepFolder(folder / "sweeps" / contents.name)
    swept.add(contents.runs)
    first = swept.listed()[0]
    directory = swept.run_directory(first.name)
    directory.mkdir(parents=True)
    record = {"step": 1, "phase": "text", "tokens": 10, "loss": 2.0, "heldout_loss": {"a": 1.5}}
    (directory / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    swept.record(first, "started")
    swept.record(first, "ended", code=0)
    return swept


def lines(folder: pathlib.Path, name: str = "rates") -> list[dict]:
    return [json.loads(line) for line in (folder / "records" / f"{name}.jsonl").read_text().splitlines()]


def test_a_finished_run_is_recorded_once(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path)
    swept = finished(tmp_path, file)
    for _ in range(2):
        record_finished(read_sweep(file, tmp_path / "sweeps"), swept)
        assert call(tmp_path, "status", file) == DONE
    (line,) = lines(tmp_path)
    assert (line["run"], line["settings"]) == (swept.listed()[0].name, {"phases.*.learning_rate": 0.1})
    assert (line["quantities"]["heldout"], line["steps"], line["tokens"]) == (1.5, 18, 10)


def test_what_another_process_has_recorded_is_not_recorded_again(tmp_path: pathlib.Path) -> None:
    early, late = Records(tmp_path, "rates"), Records(tmp_path, "rates")
    early.add(outcome("one"), tmp_path)
    late.add(outcome("one", 9.0), tmp_path)
    late.add(outcome("two"), tmp_path)
    assert [json.loads(line)["run"] for line in (tmp_path / "rates.jsonl").read_text().splitlines()] == ["one", "two"]
    assert late.outcome(Listed(0, "one", {})).quantities == {"heldout": 1.0}


def test_several_writers_at_once(tmp_path: pathlib.Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(_write_many, [tmp_path] * 4, range(4)))
    found = [json.loads(line)["run"] for line in (tmp_path / "rates.jsonl").read_text().splitlines()]
    assert sorted(found) == sorted([f"{writer}-{number}" for writer in range(4) for number in range(10)] + ["shared"])


def _write_many(folder: pathlib.Path, writer: int) -> None:
    records = Records(folder, "rates")
    for number in range(10):
        records.add(outcome(f"{writer}-{number}"), folder)
    records.add(outcome("shared"), folder)


def test_figures_are_short_and_read_back(tmp_path: pathlib.Path) -> None:
    Records(tmp_path, "rates").add(outcome("one", 1 / 7), tmp_path)
    read = Records(tmp_path, "other").outcome(Listed(3, "one", {"run.seed": 0}))
    assert (read.quantities, read.curves["loss"], read.seconds) == ({"heldout": 0.142857}, [(1.0, 0.333333)], 60.0)
    assert (read.state.status, read.run.index, read.step, read.steps) == ("finished", 3, 5, 5)
    assert read.state.reason == f"recorded in {tmp_path / 'rates.jsonl'}"


def test_no_folder_keeps_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = Records(None, "rates")
    records.add(outcome("one"), tmp_path)
    assert "one" not in records and not list(tmp_path.iterdir())


def test_a_recorded_run_is_not_launched_by_another_sweep(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests/launch'}")
    assert call(tmp_path, "run", write(tmp_path)) == DONE
    other = write(tmp_path, "more", "(0.2, 0.3)")
    assert call(tmp_path, "run", other, "--parallel=2") == DONE
    names = [run.name for run in read_sweep(other, tmp_path / "sweeps").runs]
    assert (tmp_path / "sweeps/more/starts.txt").read_text().split() == names[1:]
    assert [line["run"] for line in lines(tmp_path, "more")] == names[1:]  # each run stands in one file


def test_results_from_records_alone(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a fresh checkout: no run folder, and nothing to run."""
    file = write(tmp_path, command="no_such_trainer")
    runs = read_sweep(file, tmp_path / "sweeps").runs
    for run, value in zip(runs, (1.25, 1.5), strict=True):
        Records(tmp_path / "records", "rates").add(outcome(run.name, value), tmp_path)
    assert call(tmp_path, "results", file, f"--html={tmp_path}/a.html", f"--csv={tmp_path}/a.csv") == DONE
    out = capsys.readouterr().out
    assert "1.2500" in out and "1.5000" in out and out.count("1 of 1") == 2
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3 and "1.5" in (tmp_path / "a.html").read_text()
    assert call(tmp_path, "run", file, "--dry-run") == DONE
    assert capsys.readouterr().out.count("recorded") == 2
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ('{"run": "x", "sett', "JSONDecodeError"),
        ("", "JSONDecodeError"),
        ("[1]", "ValueError: has no run"),
        ("1", "TypeError"),
        ('{"run": "x", "settings": {}}', "ValueError: has no steps"),
        (BARE | {"curves": []}, "ValueError: settings, quantities and curves must be objects"),
    ],
)
def test_a_damaged_line_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], damaged: str | dict, reason: str) -> None:
    file = write(tmp_path)
    records = Records(tmp_path / "records", "rates")
    records.add(outcome("one"), tmp_path)
    with (tmp_path / "records/rates.jsonl").open("a") as text:
        text.write((damaged if isinstance(damaged, str) else json.dumps(damaged)) + "\n")
    with pytest.raises(ConfigError, match=r"rates\.jsonl:2: no record of a run"):
        records.add(outcome("two"), tmp_path)  # it was damaged after it was read
    assert call(tmp_path, "run", file) == CONFIGURATION
    error = capsys.readouterr().err
    assert "rates.jsonl:2: no record of a run" in error and reason in error
    assert not (tmp_path / "sweeps/rates/starts.txt").exists()
