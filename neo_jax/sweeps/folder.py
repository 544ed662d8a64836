"""The folder of a sweep, beside its runs: the list of runs and what happened to them. Both files are only ever appended to.

list.jsonl              a line a run: its index, which never changes, its name and its settings
events.jsonl            a line an event: started, ended (with the exit code), lost (its launcher was killed), stopped (by the rule), retry. Of a run
                        on SLURM, each with its task: submitted; started; interrupted (with the exit code: the task is queued again), ended (for
                        good), stopping (asked to save and end), lost (SLURM does not hold the task any more, and it has not ended). Where a run
                        goes on without its launcher, started and lost have a target: jobset
configurations/NAME.json  what each run is started with
runs/NAME/              run directories            logs/NAME.log   what runs print
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.storage import write_whole
from neo_jax.config import ConfigError
from neo_jax.exit_codes import DATA, DONE, NOT_FINITE, PREEMPTED
from neo_jax.sweeps import slurm
from neo_jax.sweeps.choices import Settings
from neo_jax.sweeps.file import SweepRun

WAITING, QUEUED, RUNNING, FINISHED, STOPPED, FAILED = "waiting", "queued", "running", "finished", "stopped", "failed"
REASONS = {DATA: "data cannot be used", NOT_FINITE: "a loss or a gradient is not finite"}


@dataclasses.dataclass(frozen=True)
class Listed:
    """A run in the list: its index, name and settings."""

    index: int
    name: str
    settings: Settings


@dataclasses.dataclass(frozen=True)
class State:
    """Where a run is.

    Attributes:
      status: one of the states above; QUEUED is on SLURM alone.
      reason: why it stopped or failed.
      task: of SLURM, such as "4711_3", if it was submitted and has not ended; that of a run that waits was lost.
    """

    status: str = WAITING
    reason: str = ""
    task: str = ""


class SweepFolder:
    """The folder of one sweep. Reading needs no lock; whoever launches runs holds `lock`.

    Args:
      path: created when something is first written.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path

    def run_directory(self, name: str) -> pathlib.Path:
        return self.path / "runs" / name

    def configuration(self, name: str) -> pathlib.Path:
        return self.path / "configurations" / f"{name}.json"

    def log(self, name: str) -> pathlib.Path:
        return self.path / "logs" / f"{name}.log"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the sweep while its runs are launched. Raises ConfigError if another process does."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError([f"{self.path} is being run by process {self.driver()}: wait for it, or stop it with stop"]) from None
            file.truncate(0)
            file.write(f"{os.getpid()} {socket.gethostname()}\n")
            file.flush()
            yield

    def driver(self) -> str | None:
        """Returns number and host of the process that launches runs of the sweep, such as "4711 host"; None if there is none."""
        try:
            with (self.path / "lock").open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return file.read().strip()
        except FileNotFoundError:
            pass
        return None

    def add(self, runs: Sequence[SweepRun]) -> None:
        """Appends the runs that are not yet in the list, and writes the configurations of all."""
        known = {each.name for each in self.listed()}
        (self.path / "configurations").mkdir(parents=True, exist_ok=True)
        for run in runs:
            write_whole(self.configuration(run.name), json.dumps(run.configuration, indent=2) + "\n")
        new = [run for run in runs if run.name not in known]
        for index, run in enumerate(new, len(known)):
            _append(self.path / "list.jsonl", {"index": index, "name": run.name, "settings": run.settings})

    def listed(self) -> list[Listed]:
        return [Listed(**line) for line in _lines(self.path / "list.jsonl")]

    def record(self, run: Listed, event: str, **more: Any) -> None:
        _append(self.path / "events.jsonl", {"time": time.time(), "index": run.index, "name": run.name, "event": event, **more})

    def events(self, task: str) -> list[dict[str, Any]]:
        """Returns the events of a task of SLURM, oldest first."""
        return [line for line in _lines(self.path / "events.jsonl") if line.get("task") == task]

    def left(self) -> list[Listed]:
        """Returns the runs that a launcher has begun on Kubernetes and has not seen the end of: they may go on there."""
        last = {line["name"]: line for line in _lines(self.path / "events.jsonl")}
        return [run for run in self.listed() if run.name in last and last[run.name].get("target")]

    def states(self) -> dict[str, State]:
        """Returns the state of every run in the list, by name. Raises SlurmError if runs were submitted and SLURM cannot be asked for them."""
        states = {each.name: State() for each in self.listed()}
        alive = self.driver() is not None
        for line in _lines(self.path / "events.jsonl"):
            if line["name"] in states:
                states[line["name"]] = _after(line, states[line["name"]], alive)
        if any(state.task for state in states.values()):
            held = slurm.held_tasks(self.path.name)
            states = {name: _asked(state, held) if state.task else state for name, state in states.items()}
        return states

    def seconds(self, states: Mapping[str, State]) -> dict[str, float]:
        """Returns for how long each run has run, all of its starts together; a start that was cut off counts to the last event before.

        Args:
          states: of the runs, which say whether the last start goes on.
        """
        total: dict[str, float] = {}
        started: dict[str, float] = {}
        last = 0.0
        for line in _lines(self.path / "events.jsonl"):
            name, moment = line["name"], line["time"]
            if name in started and line["event"] in ("ended", "interrupted", "lost", "started"):
                cut = line["event"] in ("lost", "started")
                total[name] = total.get(name, 0.0) + (last if cut else moment) - started.pop(name)
            if line["event"] == "started":
                started[name] = moment
            last = moment
        for name, begin in started.items():
            goes_on = name in states and states[name].status == RUNNING
            total[name] = total.get(name, 0.0) + (time.time() if goes_on else last) - begin
        return total


def _after(line: dict[str, Any], before: State, alive: bool) -> State:
    match line["event"]:
        case "submitted" | "interrupted":
            return State(QUEUED, task=line["task"])
        case "started" if "task" in line:
            return State(RUNNING, task=line["task"])
        case "started":
            return State(RUNNING) if alive else State()  # its launcher was killed, and it with it
        case "stopped":
            return State(STOPPED, line["reason"])
        case "retry" | "lost":
            return State()
        case "stopping":
            return before
    if before.status == STOPPED:
        return before
    code = line["code"]
    if code in (DONE, PREEMPTED):
        return State(FINISHED if code == DONE else WAITING)
    return State(FAILED, f"exit code {code}" + (f" ({REASONS[code]})" if code in REASONS else ""))


def _asked(state: State, held: Mapping[str, str]) -> State:
    """Returns the state of a submitted run by what SLURM holds."""
    if state.task not in held:
        return State(task=state.task)
    return State(QUEUED if held[state.task] in slurm.PENDING else RUNNING, task=state.task)


def _append(path: pathlib.Path, line: dict[str, Any]) -> None:
    """Appends a line. One that was cut by a kill before is ended first, so that it spoils no other. Tasks on several hosts append to one file."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        cut = end > 0 and file.read(1) != b"\n"
        file.write((b"\n" if cut else b"") + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a file that are whole."""
    found = []
    for text in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return found
