"""Benchmarks do what the official evaluation kit was recorded to do; and the comparison notices where they do not."""

import json
import pathlib
import shutil

import pytest

from neo_jax.config.benchmark import BENCHMARKS as NAMES
from neo_jax.config.benchmark import PRESETS as PRESET_NAMES
from neo_jax.evaluation.benchmarks.registry import BENCHMARKS, PRESETS
from neo_jax.evaluation.golden import DIFFERS, compare, difference, main
from neo_jax.evaluation.published import published
from neo_jax.exit_codes import CONFIGURATION, DONE

GOLDEN = pathlib.Path(__file__).parents[3] / "golden" / "evaluation"
FOLDERS = sorted(folder.name for folder in GOLDEN.iterdir())


def test_all_benchmarks_are_recorded_and_known():
    assert set(FOLDERS) == set(BENCHMARKS) == set(NAMES) == set(published()) and len(FOLDERS) == 30
    assert tuple(PRESETS) == PRESET_NAMES


@pytest.mark.parametrize("name", FOLDERS)
def test_equal_to_the_official_kit(name):
    tally = compare(GOLDEN / name)
    assert tally.differences == []
    recorded = json.loads((GOLDEN / name / "scores.json").read_text())["passes"]
    stopped = sum("error" in each for each in recorded)
    assert sum(tally.skipped.values()) == stopped and all("evaluate() stops" in why for why in tally.skipped)
    assert tally.compared["aggregates"] == len(recorded) - stopped > 0
    runs = json.loads((GOLDEN / name / "prompts.json").read_text())["runs"]
    assert tally.compared["prompts"] == tally.compared["settings"] == sum(len(run["rows"]) for run in runs) > 0
    images = sum(len(row["images"]) for run in runs for row in run["rows"])
    assert tally.compared["resize targets"] == tally.compared["means and deviations"] == images > 0
    assert tally.compared["frame lists"] == sum("frames" in row for run in runs for row in run["rows"])


def changed(tmp_path, name, file, change) -> pathlib.Path:
    """Returns a copy of a folder with a change in one of its records."""
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


def of_row(name, value):
    def change(content):
        content["runs"][0]["rows"][0][name] = value

    return change


def of_image(name, value):
    def change(content):
        content["runs"][0]["rows"][0]["images"][0][name] = value

    return change


def of_pass(key, value):
    def change(content):
        content["passes"][0]["rows"][0][key] = value

    return change


WRONG = [
    ("mmmu", "prompts.json", of_row("text", "something else"), "prompts of MMMU_DEV_VAL row 1"),
    ("mmmu", "prompts.json", lambda content: content["runs"][0].update(system=""), "settings of"),
    ("mmmu", "prompts.json", lambda content: content["runs"][0].update(min_pixels=4096), "settings of"),
    ("mmmu", "prompts.json", lambda content: content["runs"][0]["generation"].update(top_k=50), "settings of"),
    ("mmmu", "prompts.json", lambda content: content["runs"][0]["rows"].pop(), "rows of"),
    ("mmmu", "prompts.json", of_row("tokens", 3), "tokens of"),
    ("mmmu", "prompts.json", lambda content: content["runs"][0]["rows"][1]["message"].pop(), "messages of"),
    ("mmmu", "prompts.json", of_image("grid_hw", [52, 80]), "resize targets of"),
    ("mmmu", "prompts.json", of_image("mean", 0.56), "mean of"),
    ("mmmu", "prompts.json", of_image("stored_as", "PNG"), "files of"),
    ("mvbench", "prompts.json", lambda content: content["runs"][1]["rows"][0]["frames"]["indices"].reverse(), "frame lists of"),
    ("docvqa", "scores.json", of_pass("score", 0.99), "row scores of"),
    ("docvqa", "scores.json", of_pass("read_back", "no"), "answers read back of"),
    ("pope", "scores.json", of_pass("extracted", "Unknown"), "intermediate values of"),
    (
        "pope",
        "scores.json",
        lambda content: content["passes"][0]["aggregate"][1].update(acc=99.9),
        "aggregates of pass 0: adversarial: acc",
    ),
    ("vsi_bench", "scores.json", lambda content: content["passes"][0]["aggregate"].pop("overall"), "'overall' is only in ours"),
]


@pytest.mark.parametrize(("name", "file", "change", "message"), WRONG)
def test_a_record_that_differs_is_noticed(tmp_path, name, file, change, message):
    lines = []
    assert main([str(changed(tmp_path, name, file, change))], lines.append) == DIFFERS
    count = 6 if message == "settings of" else 1  # those of a run are those of its rows
    assert lines[0].startswith(f"{name}: {count} differ") and any(message in line for line in lines[1:])


def test_folders_that_cannot_be_compared(tmp_path, capsys):
    assert main([]) == CONFIGURATION
    lines = []
    (tmp_path / "new_bench").mkdir()
    (tmp_path / "pope").mkdir()
    shutil.copytree(GOLDEN / "ai2d", tmp_path / "ai2d")
    for file in ("prompts.json", "scores.json"):
        content = json.loads((tmp_path / "ai2d" / file).read_text())
        (tmp_path / "ai2d" / file).write_text(json.dumps({key: [] if isinstance(value, list) else value for key, value in content.items()}))
    broken = changed(tmp_path, "blink", "scores.json", lambda content: content["passes"][0]["rows"][0].pop("prediction"))
    folders = [tmp_path / "new_bench", tmp_path / "pope", tmp_path / "ai2d", broken, GOLDEN / "mmstar"]
    assert main([*map(str, folders)], lines.append) == DIFFERS
    assert "there is no benchmark 'new_bench'" in lines[0]
    assert "input.tsv cannot be read" in lines[1]
    assert lines[2] == "ai2d: equal; compared nothing"
    assert "a record is broken (KeyError: 'prediction')" in lines[3]
    assert lines[4].startswith("mmstar: equal; compared 1 rows, 4 prompts")
    assert main([str(GOLDEN / "mmstar")], lines.append) == DONE


def test_differences_name_their_place():
    assert difference({"a": [1, 2.0]}, {"a": [1, 2]}, 1e-9) == ""
    assert difference({"a": [1, 2.1]}, {"a": [1, 2]}, 1e-9) == "a: [1]: 2.1, recorded 2"
    assert difference([{"split": "x", "n": 1}, {"split": "y", "n": 2}], [{"split": "y", "n": 2}, {"split": "x", "n": 1}], 0) == ""
    assert difference("1", 1, 0) == "'1', recorded 1"
    assert "None, recorded False" in difference(None, False, 0)
