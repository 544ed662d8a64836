"""Sweep files with SEARCH, as far as they go without Optuna. tests/search has it."""

import pathlib
import sys

import pytest

from launch import sweep
from neo_jax.exit_codes import CONFIGURATION, DONE
from neo_jax.sweeps.dimensions import Choice, Integers, LogUniform, Uniform
from neo_jax.sweeps.file import read_sweep
from neo_jax.sweeps.folder import SweepFolder
from neo_jax.sweeps.search import Search
from neo_jax.sweeps.searcher import with_listed

ROOT = pathlib.Path(__file__).parents[3]
FILE = '''"""Which rate is best?"""
from neo_jax.sweeps.rules import Threshold
from neo_jax.sweeps.dimensions import Choice, Integers, LogUniform, Uniform
from neo_jax.sweeps.search import Search
CONFIG = "{root}/configs/demo.py:smoke"
COMMAND = "fake_trainer"
SEARCH = {search}
{more}
'''
SPACE = '{"phases.*.learning_rate": LogUniform(1e-4, 1e-2), "optimizer.weight_decay": Choice(0.01, 0.1)}'
SEARCH = f"Search(space={SPACE}, trials=5)"


def write(folder: pathlib.Path, search: str = SEARCH, more: str = "") -> str:
    file = folder / "rates.py"
    file.write_text(FILE.format(root=ROOT, search=search, more=more))
    return str(file)


def call(folder: pathlib.Path, *more: str) -> int:
    return sweep.main(["run", str(folder / "rates.py"), f"--folder={folder / 'sweeps'}", *more])


@pytest.mark.parametrize(
    ("search", "more", "sentence"),
    [
        ("3", "", "SEARCH must be a Search of neo_jax.sweeps.search"),
        ("Search(space={}, trials=3)", "", "SEARCH: space must be a dictionary by dotted key"),
        ('Search(space={"run.seed": 3}, trials=3)', "", "run.seed: 3 must be a Uniform, LogUniform, Integers or Choice"),
        ('Search(space={"run.seed": Integers(0, 9)}, trials=0)', "", "trials is 0, must be a whole number of at least 1"),
        ('Search(space={"run.seed": Integers(0, 1.5)}, trials=3)', "", "must go from a whole number to a greater one"),
        ('Search(space={"x": LogUniform(0.0, 1.0)}, trials=3)', "", "must begin above 0"),
        ('Search(space={"x": Uniform(2, 1)}, trials=3)', "", "must go from a number to a greater one"),
        ('Search(space={"x": Choice(1, 1)}, trials=3)', "", "must have values, each once"),
        ('Search(space={"x": Choice((1, 2))}, trials=3)', "", "must have values, each once"),
        ('Search(space={"run.seed": Integers(0, 9)}, trials=3, quantity="exact_match")', "", "quantity is 'exact_match', must be"),
        ('Search(space={"run.sed": Integers(0, 9)}, trials=3)', "", "run.sed: unknown key 'sed'; did you mean 'seed'?"),
        ('Search(space={"run.seed": Integers(-5, 9)}, trials=3)', "", "setting 0 (run.seed=-5): run.seed"),
        (SEARCH, "def sweep(): return [{}]", "has SEARCH and sweep(): leave one of them out"),
        (SEARCH, "RULE = Threshold(step=3, above=1)", "has SEARCH and RULE"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: pathlib.Path, capsys, search: str, more: str, sentence: str) -> None:
    write(tmp_path, search, more)
    assert call(tmp_path) == CONFIGURATION
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "sweeps").exists()


def test_what_a_search_needs_is_said(tmp_path: pathlib.Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # importing it fails
    write(tmp_path)
    assert call(tmp_path, "--dry-run") == DONE
    assert "5 more, which the search chooses as results come" in capsys.readouterr().out
    assert call(tmp_path) == CONFIGURATION
    assert "pip install --no-deps -r requirements-search.txt" in capsys.readouterr().err
    assert call(tmp_path, "--target=slurm") == CONFIGURATION
    assert "SEARCH chooses settings as results come, which needs --target=local or jobset" in capsys.readouterr().err
    assert not (tmp_path / "sweeps").exists()


def test_a_search_has_the_listed_runs_of_its_space_and_configuration(tmp_path: pathlib.Path) -> None:
    swept = read_sweep(write(tmp_path), tmp_path / "sweeps")
    folder = SweepFolder(tmp_path / "sweeps/rates")
    inside = {"phases.*.learning_rate": 1e-3, "optimizer.weight_decay": 0.1}
    outside = ({**inside, "phases.*.learning_rate": 0.5}, {**inside, "optimizer.weight_decay": 0.05}, {"optimizer.weight_decay": 0.1})
    folder.add([swept.resolve(each) for each in (*outside, inside)])
    assert [run.settings for run in with_listed(swept, folder).runs] == [inside]
    file = pathlib.Path(write(tmp_path))
    file.write_text(file.read_text().replace(":smoke", ""))  # of another configuration, the same settings are another run
    assert with_listed(read_sweep(str(file), tmp_path / "sweeps"), folder).runs == ()


def test_values_in_a_space() -> None:
    space = {"a": Uniform(0, 1), "b": LogUniform(1e-3, 1), "c": Integers(2, 4), "d": Choice("x", True, None)}
    search = Search(space=space, trials=1)
    assert search.problems() == []
    assert search.ends()[0] == {"a": 0, "b": 1e-3, "c": 2, "d": "x"} and len(search.ends()) == 1 + 3 + 2
    good = {"a": 0.5, "b": 1.0, "c": 3, "d": True}
    assert search.holds(good)
    for key, value in {"a": 1.1, "b": "x", "c": 2.5, "d": 1}.items():
        assert not search.holds({**good, key: value})
