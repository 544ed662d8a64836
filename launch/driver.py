"""Launches the runs of a sweep, so many at once, until all have ended or the sweep is stopped: on this machine or, as JobSets, on Kubernetes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from launch.local import on_signals
from launch.work import Work
from neo_jax.exit_codes import DONE, FAILED, PREEMPTED
from neo_jax.sweeps import rules
from neo_jax.sweeps.file import Sweep, setting_of, written
from neo_jax.sweeps.folder import FAILED as STATE_FAILED
from neo_jax.sweeps.folder import FINISHED, RUNNING, STOPPED, WAITING, Listed, State, SweepFolder
from neo_jax.sweeps.outcomes import outcomes
from neo_jax.sweeps.progress import Progress
from neo_jax.sweeps.records import Records
from neo_jax.sweeps.searcher import Searcher

POLL_SECONDS = 0.1
RULE_SECONDS = 0.5  # between looks at the metrics of the runs, where there is a rule


@dataclasses.dataclass
class _Active:
    """A run that is going on."""

    run: Listed
    work: Work
    thread: threading.Thread
    reason: str = ""  # why the rule ended it
    paused: bool = False  # by the rule
    code: int | None = None


class Driver:
    """Launches the runs of a sweep that have not ended.

    Args:
      sweep: the file.
      folder: of the sweep, whose lock the caller holds.
      parallel: runs at once.
      work: starts a run, with its log.
      target: where runs go on without this launcher, such as "jobset"; "": they end with it.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder, parallel: int, work: Callable[[Listed, TextIO], Work], target: str = ""):
        self._sweep, self._folder, self._parallel, self._work = sweep, folder, parallel, work
        self._place = {"target": target} if target else {}  # of events
        self._kept = Records(sweep.records, sweep.name)
        names = {run.name for run in sweep.runs if run.name not in self._kept}
        self._runs = [run for run in folder.listed() if run.name in names]
        self._active: dict[str, _Active] = {}
        self._stopping = False
        self._looked = 0.0
        self._lost: set[str] = set()  # runs that an earlier launcher had begun: they come first
        self._progress = Progress(folder)
        self._searcher = Searcher(sweep, sweep.search, folder, self._kept, self._progress) if sweep.search else None

    def stop(self) -> None:
        """Ends all runs, which save first; `run` returns. For signal handlers."""
        self._stopping = True

    def run(self) -> int:
        """Returns DONE if all runs have finished or were ended by the rule, FAILED if any failed, PREEMPTED after `stop`."""
        on_signals(self.stop)
        states = self._states()
        for run in self._runs:
            if states[run.name].status == RUNNING or states[run.name].task:  # an earlier launcher was killed, or SLURM lost it
                self._folder.record(run, "lost", **self._place)
                self._lost.add(run.name)
        (self._folder.path / "logs").mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((self._folder.path / "compilation_cache").absolute()))  # one for all runs
        held: frozenset[str] = frozenset()
        while True:
            ended = self._collect()
            if self._sweep.rule and not self._stopping and (ended or time.monotonic() - self._looked >= RULE_SECONDS):
                held = self._apply()
            if self._stopping:
                for active in self._active.values():
                    active.work.stop()
            else:
                self._start(held)
            if not self._active:
                break
            time.sleep(POLL_SECONDS)
        if self._stopping:
            return PREEMPTED
        return FAILED if any(state.status == STATE_FAILED for state in self._states().values()) else DONE

    def _states(self) -> dict[str, State]:
        states = self._folder.states()
        return {run.name: states[run.name] for run in self._runs}

    def _start(self, held: frozenset[str]) -> None:
        if len(self._active) >= self._parallel:
            return
        states = self._states()
        ready = [run for run in self._runs if run.name not in self._active and run.name not in held and states[run.name].status == WAITING]
        while not ready and (new := self._propose()):
            ready = [] if new.name in self._kept else [new]
        ready.sort(key=lambda run: run.name not in self._lost)
        for run in ready[: self._parallel - len(self._active)]:
            self._launch(run)

    def _propose(self) -> Listed | None:
        """Returns the next run of a search, which is then in the list; None if there is none."""
        if self._searcher is None or self._searcher.exhausted:
            return None
        new = self._searcher.next()
        if self._searcher.exhausted:
            _say("the search proposes nothing new: fewer runs than its trials")
        if new and new.name not in self._kept:
            self._runs.append(new)
        return new

    def _launch(self, run: Listed) -> None:
        log = self._folder.log(run.name).open("a")
        active = _Active(run, self._work(run, log), threading.Thread(target=lambda: self._supervise(active, log), daemon=True))
        self._folder.record(run, "started", **self._place)
        self._active[run.name] = active
        _say(f"run {run.index} ({run.name}) starts: {written(run.settings)}")
        active.thread.start()

    @staticmethod
    def _supervise(active: _Active, log: TextIO) -> None:
        try:
            with log:
                active.code = active.work.run()
        except OSError as error:  # no process can be started
            _say(f"run {active.run.index} cannot be started ({error})")
            active.code = FAILED

    def _collect(self) -> bool:
        """Records the runs that have ended; returns whether any has."""
        over = [active for active in self._active.values() if not active.thread.is_alive()]
        for active in over:
            run = active.run
            code = FAILED if active.code is None else active.code
            del self._active[run.name]
            self._folder.record(run, "ended", code=code)
            state = self._states()[run.name]
            what = (
                f"waits for the others ({self._progress.step(run.name)} steps, saved)"
                if active.paused and state.status == WAITING
                else state.status
            )
            if active.reason and code != DONE:
                self._folder.record(run, "stopped", reason=active.reason)
                what = f"stopped by the rule: {active.reason}"
            reason = f": {state.reason}; its log: {self._folder.log(run.name)}" if state.status == STATE_FAILED else ""
            _say(f"run {run.index} ({run.name}) {what}{reason}")
            self._keep(run, state)
        return bool(over)

    def _keep(self, run: Listed, state: State) -> None:
        """Records a run that has finished."""
        if state.status == FINISHED:
            self._kept.add(outcomes(self._folder, [run])[0], self._folder.run_directory(run.name))

    def _apply(self) -> frozenset[str]:
        """Asks the rule: ends runs, pauses those that must wait, and returns their names."""
        states = self._states()
        contestants = [
            rules.Contestant(
                run.name,
                setting_of(run.settings),
                self._progress.step(run.name),
                states[run.name].status in (FINISHED, STOPPED),
                states[run.name].status == STATE_FAILED,
                lambda step, name=run.name: rules.value_at(self._progress.records(name), self._sweep.rule.quantity, step),
            )
            for run in self._runs
        ]
        decision = rules.decide(self._sweep.rule, contestants)
        for run in self._runs:
            active = self._active.get(run.name)
            if run.name in decision.ended and active and not active.reason:
                active.reason = decision.ended[run.name]
                active.work.stop()
            elif run.name in decision.ended and not active and states[run.name].status == WAITING:
                self._folder.record(run, "stopped", reason=decision.ended[run.name])
                _say(f"run {run.index} ({run.name}) stopped by the rule: {decision.ended[run.name]}")
            elif run.name in decision.waiting and active and not active.paused:
                active.paused = True
                active.work.stop()
        self._looked = time.monotonic()
        return decision.waiting


def _say(sentence: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"sweep: {sentence}", file=sys.stderr, flush=True)
