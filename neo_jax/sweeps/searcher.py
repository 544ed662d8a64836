"""The runs of a search: which runs of a sweep's list are its trials, and what the next one is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from neo_jax.config import ConfigError
from neo_jax.sweeps.choices import Settings
from neo_jax.sweeps.file import Sweep, SweepRun
from neo_jax.sweeps.folder import FAILED, FINISHED, Listed, State, SweepFolder
from neo_jax.sweeps.progress import Progress
from neo_jax.sweeps.records import Records
from neo_jax.sweeps.rules import value_at
from neo_jax.sweeps.search import Search, Trial, ask


def with_listed(sweep: Sweep, folder: SweepFolder) -> Sweep:
    """Returns a sweep with the runs that its search has chosen so far: those of the list in the file's space, with the file's configuration."""
    return dataclasses.replace(sweep, runs=tuple(_chosen(sweep, folder))) if sweep.search else sweep


class Searcher:
    """Chooses the runs of a search.

    Args:
      sweep: the file.
      search: of the file.
      folder: of the sweep, whose lock the caller holds.
      kept: recorded runs, whose values are taken from there where this folder has no metrics of them.
      progress: metrics of the runs.
    """

    def __init__(self, sweep: Sweep, search: Search, folder: SweepFolder, kept: Records, progress: Progress):
        self._sweep, self._search, self._folder, self._kept, self._progress = sweep, search, folder, kept, progress
        self._names = {run.name for run in _chosen(sweep, folder)}
        self.exhausted = False  # whether nothing new was proposed, though there are fewer runs than wanted

    def next(self) -> Listed | None:
        """Appends the next run to the list and returns it; None if there are as many as wanted, or nothing new is proposed."""
        if self.exhausted or len(self._names) >= self._search.trials:
            return None
        states = self._folder.states()
        trials = [self._trial(run, states) for run in self._folder.listed() if run.name in self._names]
        new = ask(self._search, trials, self._accept)
        self.exhausted = new is None
        if new is None:
            return None
        self._folder.add([new])
        self._names.add(new.name)
        return next(run for run in self._folder.listed() if run.name == new.name)

    def _accept(self, settings: Settings) -> SweepRun | None:
        assert self._sweep.resolve is not None
        try:
            run = self._sweep.resolve(settings)
        except ConfigError:  # each key may have this value, but not together
            return None
        return None if run.name in {each.name for each in self._folder.listed()} else run

    def _trial(self, run: Listed, states: Mapping[str, State]) -> Trial:
        recorded, status = run.name in self._kept, states[run.name].status
        value = None
        if recorded or status == FINISHED:
            value = value_at(self._progress.records(run.name), self._search.quantity, self._progress.step(run.name))
        if value is None and recorded:
            value = self._kept.outcome(run).quantities.get(self._search.quantity)
        finite = value if value is not None and math.isfinite(value) else None
        return Trial(run.settings, recorded or status in (FINISHED, FAILED), finite)


def _chosen(sweep: Sweep, folder: SweepFolder) -> list[SweepRun]:
    assert sweep.search is not None and sweep.resolve is not None
    found = []
    for run in folder.listed():
        if sweep.search.holds(run.settings):
            try:
                resolved = sweep.resolve(run.settings)
            except ConfigError:  # the configuration has changed since
                continue
            if resolved.name == run.name:
                found.append(resolved)
    return found
