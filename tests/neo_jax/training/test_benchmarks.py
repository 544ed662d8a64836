"""Benchmarks within a run: after its phases and every so many steps; asked once, and again if they change."""

import json
import pathlib
import shutil

import pytest

from neo_jax import export
from neo_jax.config import ConfigError, Evaluation
from neo_jax.config.fields import read_value
from neo_jax.runs.benchmarks import read_benchmarks
from tests.neo_jax.training.running import run, write_config
from tests.neo_jax.training.test_trainer import TOTAL

pytestmark = pytest.mark.xdist_group("trainer")  # one worker: the whole run is made once

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "evaluation"
SMALL = {"max_tokens": 4, "min_pixels": 1024, "max_pixels": 4096}


def benchmarks(folder: pathlib.Path) -> dict:
    rows = [{"messages": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "yes"}]}] * 2
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    star = {"benchmark": "mmstar", "data": str(GOLDEN / "mmstar" / "input.tsv"), "preset": "fixed", **SMALL}
    return {"own": {"data": str(folder / "own.jsonl"), "max_tokens": 3}, "star": star}


def test_a_finished_run_asks_new_benchmarks(corpus: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path):
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    shutil.copytree(whole.parent / "index", tmp_path / "index")
    asked = benchmarks(tmp_path)
    code, output = run(write_config(corpus, directory, evaluation__benchmarks=asked))
    assert code == 0, output
    scores, problems = read_benchmarks(directory)
    assert problems == [] and [(each.name, each.step, each.phase, each.questions) for each in scores] == [
        ("own", TOTAL, "mid", 2),
        ("star", TOTAL, "mid", 4),
    ]
    assert "benchmark star" in output and "published NEO-ov: 2B 58.6, 9B 67.3" in output
    folder = directory / "benchmarks" / "star" / f"{TOTAL:08d}"
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [each["key"] for each in results] == ["0", "1", "2", "3"] and all(each["details"]["hit"] in (0, 1) for each in results)
    assert json.loads((folder / "scores.json").read_text())["official"][0]["split"] == "none"
    assert [each["name"] for each in json.loads((directory / "report.json").read_text())["benchmarks"]] == ["own", "star"]
    page = (directory / "report.html").read_text()
    assert "star (mmstar, fixed)" in page and "<td>58.6</td><td>67.3</td><td>4</td>" in page and "own (own rows)" in page

    written = {file: file.stat().st_mtime_ns for file in (directory / "benchmarks").rglob("*.json*")}
    asked["own"]["max_tokens"] = 2
    code, output = run(write_config(corpus, directory, evaluation__benchmarks=asked))
    assert code == 0, output
    again = {file.parts[-3] for file, time in written.items() if file.stat().st_mtime_ns != time}
    assert again == {"own"} and "benchmark star" not in output

    out = tmp_path / "out"
    assert export.main([f"--checkpoint={directory}", f"--output={out}"]) == 0
    assert "| star | mmstar (fixed) | 10 | 4 |" in (out / "README.md").read_text()

    asked["star"]["data"] = str(tmp_path / "none.tsv")
    code, output = run(write_config(corpus, directory, evaluation__benchmarks=asked))
    assert code == 65 and "none.tsv cannot be read" in output


@pytest.mark.nightly
def test_every_few_steps(corpus: pathlib.Path, tmp_path: pathlib.Path):
    settings = {"evaluation__benchmarks": benchmarks(tmp_path), "evaluation__benchmark_every": 2, "run__checkpoint_every": 100}
    file = write_config(corpus, tmp_path / "run", **settings)
    code, output = run(file)
    assert code == 0, output
    scores, _ = read_benchmarks(tmp_path / "run")
    assert [each.step for each in scores if each.name == "own"] == [5, 6, 8, 10]  # text alone has no pictures
    assert "text: benchmarks are not asked in a phase without pictures" in output
    # As a start that was stopped while it asked, right after it had saved.
    shutil.rmtree(tmp_path / "run" / "benchmarks" / "star" / "00000008")
    for step in (9, 10):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step), ignore_errors=True)
    code, output = run(file)
    assert code == 0, output
    assert "resumed after step 8" in output and read_benchmarks(tmp_path / "run")[0] == scores


def test_names_and_steps_that_are_refused():
    problems = []
    values = {"benchmarks": {"a/b": {"data": "x.jsonl"}, "c": {"data": "y", "benchmark": "mmstars"}}}
    read_value(Evaluation, values, "evaluation", problems)
    assert any("'mmstars'" in each and "mmstar" in each for each in problems)
    problems.clear()
    del values["benchmarks"]["c"]
    read_value(Evaluation, values, "evaluation", problems)
    assert any("names a folder" in each for each in problems)
    problems.clear()
    read_value(Evaluation, {"benchmark_every": 3}, "evaluation", problems)
    assert any("there are no benchmarks" in each for each in problems)
    assert ConfigError(problems).problems == problems
