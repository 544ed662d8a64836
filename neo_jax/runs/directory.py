"""A run directory: its lock, and the configuration that it belongs to.

docs/architecture.md, "What a start resumes from", describes how a start uses it.
"""

from __future__ import annotations

import fcntl
import fnmatch
import json
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from data_pipelines.loading.spliced import Earlier, Limits
from data_pipelines.storage import write_whole
from neo_jax import config
from neo_jax.config.sections import OVERRIDABLE
from neo_jax.runs.copies import fetch

EARLIER = "planned_before.json"  # how rows were planned before settings of the data changed within a phase
CONTINUED = "continued_phases.json"  # rows at which phases, by name, had ended before they got more steps


class RunDirectoryError(RuntimeError):
    """A run directory that cannot be used: it is in use, or its run has another configuration or other data."""


class RunDirectory:
    """The folder of one run, locked by this process inside a `with` block.

    Nothing but the lock is written until `claim`: after a start that fails earlier (a wrong path, unusable data), the folder can still be used with
    another configuration.

    Raises:
      RunDirectoryError: on entering: another process uses the folder, or it holds a run whose order of data or mathematics would differ.
    """

    def __init__(self, settings: config.Config):
        self.path = pathlib.Path(settings.run.directory).absolute()
        self._settings = settings
        self._lock: TextIO | None = None
        self._before: dict[str, Any] | None = None  # the configuration of the last start
        self._earlier: list[Earlier] = []
        self._ends: dict[str, list[int]] = {}
        self._finished = False  # whether the phase that the run is in has ended

    def __enter__(self) -> RunDirectory:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("w")
        except OSError as error:
            raise RunDirectoryError(f"run.directory {self.path} cannot be written ({error.strerror}): set it to another folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RunDirectoryError(f"{self.path} is in use by another process: wait for it, or set run.directory to another one") from None
        try:
            if (step := fetch(self._settings.run.copies, self.path)) is not None:
                logging.warning("%s was empty: the copy in %s, of step %d, was fetched", self.path, self._settings.run.copies, step)
        except OSError as error:
            self._lock.close()
            raise RunDirectoryError(
                f"run.copies {self._settings.run.copies} cannot be fetched ({error}): mend it, or set run.copies to another folder"
            ) from error
        try:
            self._check()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.close()

    def _check(self) -> None:
        path = self.path / "config.json"
        if not path.exists():
            if (self.path / "metrics.jsonl").exists() or list((self.path / "checkpoints").glob("[0-9]*")):
                raise RunDirectoryError(
                    f"{self.path} holds metrics or checkpoints and no config.json, which describes their run: restore it, or set run.directory "
                    "to a new folder"
                )
            return
        self._before = _with_defaults(read_config(path))
        self._read_plans(self.path)
        self.check_changes([])

    def go_on_from(self, run: pathlib.Path, configuration: Mapping[str, Any]) -> None:
        """Lets this run, which is new, go on as another one: settings are compared with the other's, and begun blocks of rows planned by them.

        Args:
          run: the other's directory.
          configuration: that of the checkpoint from which this one goes on.
        """
        self._before = _with_defaults(configuration)
        self._read_plans(run)

    def _read_plans(self, run: pathlib.Path) -> None:
        self._earlier = _read_earlier(run / EARLIER)
        self._ends = _read_ends(run / CONTINUED)

    def check_changes(self, begun: Sequence[str], finished: bool = False) -> None:
        """Raises RunDirectoryError if the configuration differs from the last start's in what a run cannot change.

        Args:
          begun: phases that the run has begun, in order. Before that is known: none.
          finished: whether the last of them has ended; then it may get more steps.
        """
        self._finished = finished
        if forbidden := self._differences(begun)[0]:
            raise RunDirectoryError(
                f"{self.path} holds a run with another configuration; these differences change the order of the data or the mathematics:\n  "
                + "\n  ".join(forbidden)
                + "\nset run.directory to a new folder, or undo the changes"
                + _override_advice(forbidden)
            )

    def _differences(self, begun: Sequence[str]) -> tuple[list[str], list[str]]:
        if not self._before:
            return [], []
        return config.differences(self._before, self._settings.resolved(), begun, self._finished)

    def earlier(self, phase: str, until: int) -> list[Earlier]:
        """Returns how rows are planned up to where later settings hold (data_pipelines.loading.spliced).

        Args:
          phase: the one that the run is in.
          until: its first row that the settings of this start hold for, if it goes on with other ones than the last start.
        """
        known = any(each.phase == phase and each.until == until for each in self._earlier)  # a start that took no step up to there
        if self._before and until and not known:
            before, now = (_planned_by(values, phase, until) for values in (self._before, self._settings.resolved()))
            changed = before.mixture != now.mixture or any(before.limits[name] != now.limits[name] for name in before.limits)
            if changed:
                self._earlier.append(before)
        return list(self._earlier)

    def ends(self, phase: str, row: int | None = None) -> dict[str, list[int]]:
        """Returns the rows at which phases, by name, had ended before they got more steps; with `row`, `phase` has ended there, too."""
        if row is not None and row not in self._ends.get(phase, ()):
            self._ends[phase] = sorted([*self._ends.get(phase, ()), row])
        return self._ends

    def claim(self, begun: Sequence[str], step: int = 0) -> None:
        """Writes the resolved configuration: from now on the folder belongs to this run. Changes that are allowed are recorded.

        Args:
          begun: as for check_changes.
          step: last step that the run has taken; changes hold from the next one on.
        """
        if allowed := self._differences(begun)[1]:
            with (self.path / "config_changes.jsonl").open("a") as file:
                file.write(json.dumps({"time": time.time(), "step": step, "changed": allowed}) + "\n")
        if self._earlier:  # before config.json, which the next start compares with
            write_whole(self.path / EARLIER, json.dumps([each.to_json() for each in self._earlier], indent=1) + "\n")
        if self._ends:
            write_whole(self.path / CONTINUED, json.dumps(self._ends) + "\n")
        write_whole(self.path / "config.json", self._settings.to_json())


def _override_advice(forbidden: Sequence[str]) -> str:
    """Returns how to go on nevertheless, "" if a change among these allows no override. Each begins with its key and a colon."""
    keys = [change.partition(":")[0] for change in forbidden]
    if not all(any(fnmatch.fnmatchcase(key, pattern) for pattern in OVERRIDABLE) for key in keys):
        return ""
    return f", or go on with them on purpose: run.overrides={','.join(keys)}"


def _planned_by(values: Mapping[str, Any], phase: str, until: int) -> Earlier:
    limits = {name: Limits(tuple(source["keep"]), source["max_epochs"]) for name, source in values["data"]["sources"].items()}
    mixture = {name: weight for name, weight in values["phases"][phase]["mixture"].items() if weight}
    return Earlier(phase, until, mixture, limits)


def _read_earlier(path: pathlib.Path) -> list[Earlier]:
    try:
        return [Earlier.from_json(each) for each in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise RunDirectoryError(
            f"{path} cannot be read ({error}): it says how rows of phases whose mixture changed are planned; restore it, or set "
            "run.directory to a new folder"
        ) from error


def _read_ends(path: pathlib.Path) -> dict[str, list[int]]:
    try:
        return {str(name): [int(row) for row in rows] for name, rows in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunDirectoryError(
            f"{path} cannot be read ({error}): it says where phases had ended that got more steps; restore it, or set run.directory to a new one"
        ) from error


def _with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration with the defaults of keys that did not exist when it was written: they are what it was trained with."""
    try:
        return config.Config.from_config_dict(values).resolved()
    except config.ConfigError:  # keys that exist no more: they are named as differences
        return dict(values)


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads the resolved configuration of a run. Raises RunDirectoryError if the file is damaged."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}): restore it, or set run.directory to a new folder") from error
    if not isinstance(values, dict):
        raise RunDirectoryError(f"{path} is not a configuration: restore it, or set run.directory to a new folder")
    return values
