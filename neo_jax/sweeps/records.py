"""Finished runs as lines of JSON that are kept with the code: one file a sweep, which is only appended to. Sweeps that share a folder share runs.

A line has the run's name, settings, commit, steps, tokens, seconds, what it reached (as in outcomes.Outcome) and its curves.
"""

from __future__ import annotations

import fcntl
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from neo_jax.config import ConfigError
from neo_jax.runs.facts import read_facts
from neo_jax.sweeps.file import Sweep
from neo_jax.sweeps.folder import FINISHED, Listed, State, SweepFolder
from neo_jax.sweeps.outcomes import Outcome, outcomes

DIGITS = 6  # significant, of figures and curves
NEEDED = ("run", "settings", "steps", "tokens", "seconds", "tokens_per_second", "quantities", "curves")


class Records:
    """The records in a folder.

    Args:
      folder: with a file NAME.jsonl for each sweep; None: there are none, and none are kept.
      sweep: name of the sweep whose file is appended to.

    Raises:
      ConfigError: a line cannot be read.
    """

    def __init__(self, folder: pathlib.Path | None, sweep: str):
        self._file = folder / f"{sweep}.jsonl" if folder else None
        self._known: dict[str, tuple[pathlib.Path, dict[str, Any]]] = {}
        for file in sorted(folder.glob("*.jsonl")) if folder else ():
            self._read(file, file.read_text(errors="replace"))

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def outcome(self, run: Listed) -> Outcome:
        """Returns what the record of a run says."""
        file, values = self._known[run.name]
        curves = {name: [(x, y) for x, y in points] for name, points in values["curves"].items()}
        state = State(FINISHED, f"recorded in {file}")
        steps, tokens, seconds = (values[key] for key in ("steps", "tokens", "seconds"))
        return Outcome(run, state, steps, steps, tokens, seconds, values["quantities"], values["tokens_per_second"], curves, ())

    def add(self, outcome: Outcome, directory: pathlib.Path) -> None:
        """Appends a finished run, unless it is there. Several processes may do so at once.

        Args:
          directory: of the run, which says the commit of its last start.

        Raises:
          ConfigError: a line that another process has written meanwhile cannot be read.
        """
        if self._file is None or outcome.run.name in self:
            return
        starts, _ = read_facts(directory)
        values = {
            "run": outcome.run.name,
            "settings": outcome.run.settings,
            "commit": starts[-1].commit if starts else "",
            "versions": starts[-1].versions if starts else {},
            "steps": outcome.steps,
            "tokens": outcome.tokens,
            "seconds": round(outcome.seconds, 1),
            "tokens_per_second": outcome.tokens_per_second,
            "quantities": {name: _short(value) for name, value in outcome.quantities.items()},
            "curves": {name: [[x, _short(y)] for x, y in points] for name, points in outcome.curves.items()},
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a+", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            self._read(self._file, file.read())
            if outcome.run.name not in self:
                file.write(json.dumps(values) + "\n")
                self._known[outcome.run.name] = self._file, values

    def _read(self, file: pathlib.Path, text: str) -> None:
        for number, line in enumerate(text.splitlines(), 1):
            self._known.setdefault(*_parsed(file, number, line))


def record_finished(sweep: Sweep, folder: SweepFolder) -> None:
    """Records the runs in the list of a sweep that have finished and are not recorded. Raises ConfigError if a record cannot be read."""
    records = Records(sweep.records, sweep.name)
    if sweep.records is None:
        return
    states = folder.states()
    finished = [run for run in folder.listed() if run.name not in records and states[run.name].status == FINISHED]
    for outcome in outcomes(folder, finished):
        records.add(outcome, folder.run_directory(outcome.run.name))


def _parsed(file: pathlib.Path, number: int, line: str) -> tuple[str, tuple[pathlib.Path, dict[str, Any]]]:
    try:
        values = json.loads(line)
        if missing := [key for key in NEEDED if key not in values]:
            raise ValueError(f"has no {missing[0]}")
        if not all(isinstance(values[key], Mapping) for key in ("settings", "quantities", "curves")):
            raise ValueError("settings, quantities and curves must be objects")
        return str(values["run"]), (file, values)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"{file}:{number}: no record of a run ({type(error).__name__}: {error}); restore the file"]) from None


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
