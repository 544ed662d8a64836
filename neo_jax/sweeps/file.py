"""Reads a sweep file: a Python file with

CONFIG   the configuration that all runs share, as --config takes it: "configs/demo.py:smoke"
sweep()  the list of settings, one for each run: {"phases.*.learning_rate": 1e-3, "run.seed": 0}; neo_jax.sweeps.choices makes lists
COMMAND  optional: the module that trains, "neo_jax.train" unless it is given
SEARCH   in place of sweep(): a Search of neo_jax.sweeps.search, which chooses the settings as results come
RULE     optional: what ends runs early, of neo_jax.sweeps.rules
RECORDS  optional: a folder where finished runs are kept as lines of JSON; runs that stand there are not run again

Its docstring says which question the sweep answers and how the result is read.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import pathlib
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neo_jax.config import Config, ConfigError, override
from neo_jax.config.command_line import load
from neo_jax.sweeps.choices import SEED, Settings
from neo_jax.sweeps.rules import Halving, Rule, Threshold
from neo_jax.sweeps.search import Search

DIGITS = 10  # of a run's name


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
      name: the first DIGITS digits of a SHA-256 of the configuration, without the run directory and without what has its default.
      settings: as the file gives them.
      configuration: resolved, with its run directory.
    """

    name: str
    settings: Settings
    configuration: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
      name: the file's name without .py.
      question: its docstring.
      command: module that trains.
      rule: what ends runs early, if anything.
      runs: in the order of the file; those of a search are in the sweep's list (neo_jax/sweeps/searcher.py).
      records: folder of the records of finished runs; None: they are not recorded.
      search: what chooses the settings, if they are not listed.
      resolve: returns the run of some settings. Raises ConfigError if they cannot be used.
    """

    name: str
    question: str
    command: str
    rule: Rule | None
    runs: tuple[SweepRun, ...]
    records: pathlib.Path | None = None
    search: Search | None = None
    resolve: Callable[[Settings], SweepRun] | None = None


def read_sweep(file: str, folder: pathlib.Path) -> Sweep:
    """Reads a sweep file and resolves the configurations of all of its runs.

    Args:
      file: its path.
      folder: where the sweep's runs are: run NAME has the run directory FOLDER/SWEEP/runs/NAME.

    Raises:
      ConfigError: the file cannot be read, or settings cannot be used; with all problems of all runs.
    """
    path = pathlib.Path(os.path.expanduser(file))
    if not path.is_file():
        raise ConfigError([f"{file}: no such sweep file"])
    try:
        names = runpy.run_path(str(path))
        settings = list(names["sweep"]()) if callable(names.get("sweep")) else None
    except Exception as error:  # the user's code may raise anything
        raise ConfigError([f"{file} does not run as a sweep ({type(error).__name__}: {error})"]) from error
    rule, question, command = names.get("RULE"), (names.get("__doc__") or "").strip(), names.get("COMMAND", "neo_jax.train")
    records, given = names.get("RECORDS"), names.get("SEARCH")
    search = given if isinstance(given, Search) else None
    problems = [
        *([] if isinstance(names.get("CONFIG"), str) else [f'{file}: has no CONFIG, such as CONFIG = "configs/demo.py"']),
        *([] if settings or given is not None else [f"{file}: has no sweep() that returns a list of settings, at least one"]),
        *([] if question else [f"{file}: its docstring is empty: say which question the sweep answers and how the result is read"]),
        *([] if isinstance(command, str) else [f'{file}: COMMAND must be the name of a module, such as "neo_jax.train"']),
        *([] if records is None or isinstance(records, str) else [f'{file}: RECORDS must be a folder, such as "docs/ablations"']),
        *([] if rule is None or isinstance(rule, Threshold | Halving) else [f"{file}: RULE must be a Threshold or a Halving"]),
        *(f"{file}: RULE: {problem}" for problem in (rule.problems() if isinstance(rule, Threshold | Halving) else [])),
        *([] if given is None or search else [f"{file}: SEARCH must be a Search of neo_jax.sweeps.search"]),
        *(f"{file}: SEARCH: {problem}" for problem in (search.problems() if search else [])),
        *([f"{file}: has SEARCH and sweep(): leave one of them out"] if given is not None and settings is not None else []),
        *(
            [f"{file}: has SEARCH and RULE: a search needs the last value of each run: leave RULE out"]
            if given is not None and rule
            else []
        ),
    ]
    if problems:
        raise ConfigError(problems)
    shared, directory = load(names["CONFIG"]), folder / path.stem / "runs"
    runs = _resolve(file, shared, search.ends() if search else settings or (), directory)
    kept = pathlib.Path(records) if records else None
    if search:
        return Sweep(path.stem, question, command, rule, (), kept, search, lambda each: _run(shared, each, directory))
    return Sweep(path.stem, question, command, rule, runs, kept)


def written(settings: Mapping[str, Any]) -> str:
    """Returns settings as on a command line, without "--config."."""
    return " ".join(f"{key}={value}" for key, value in settings.items()) or "(as the configuration)"


def setting_of(settings: Mapping[str, Any]) -> str:
    """Returns a name of settings without their seed: runs that differ in nothing else are repetitions of each other."""
    return json.dumps({key: value for key, value in settings.items() if key != SEED}, sort_keys=True)


def _resolve(file: str, shared: dict[str, Any], settings: Sequence[Any], directory: pathlib.Path) -> tuple[SweepRun, ...]:
    problems: list[str] = []
    runs: dict[str, SweepRun] = {}
    places: dict[str, int] = {}
    for place, each in enumerate(settings):
        where = f"{file}: setting {place}"
        if not isinstance(each, dict) or not all(isinstance(key, str) for key in each):
            problems.append(f'{where} is {each!r}, must be a dictionary by dotted key, such as {{"run.seed": 0}}')
            continue
        if "run.directory" in each:
            problems.append(f"{where} sets run.directory, which the sweep chooses: leave it out")
            continue
        try:
            run = _run(shared, each, directory)
        except ConfigError as error:
            problems.extend(f"{where} ({written(each)}): {problem}" for problem in error.problems)
            continue
        if run.name in runs:
            problems.append(f"{where} ({written(each)}) is the same run as setting {places[run.name]} ({written(runs[run.name].settings)})")
            continue
        runs[run.name], places[run.name] = run, place
    if problems:
        raise ConfigError(problems)
    return tuple(runs.values())


def _run(shared: dict[str, Any], settings: Settings, directory: pathlib.Path) -> SweepRun:
    values = copy.deepcopy(shared)
    override(values, settings)
    config = Config.from_config_dict(values)
    name = hashlib.sha256(json.dumps(config.essential(), sort_keys=True).encode()).hexdigest()[:DIGITS]
    resolved = config.resolved()
    resolved["run"]["directory"] = str(directory / name)
    return SweepRun(name, dict(settings), resolved)
