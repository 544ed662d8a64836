"""Estimates how often a run will read each source, from lengths, before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.planning.planner import budgets
from data_pipelines.planning.too_long import Lookup, SourceLengths
from data_pipelines.randomness import permute
from data_pipelines.schema import PhaseSettings

_LOOKED_AT = 4096  # samples examined for each source and phase
_SHORT = 0.02  # share of a phase's rows that must remain empty before the phase is reported as short, since this is an estimate


class Forecast(NamedTuple):
    """Estimated reading of the sources over a run.

    Attributes:
      epochs: for each phase, the number of epochs read of each source (of any mixture, by name) by the end of the phase.
      used_up: for each phase, the sources that reach their max_epochs in it.
      short: first phase for which the data does not suffice, since all sources of its mixture are used up; None if the data suffices.
    """

    epochs: tuple[Mapping[str, float], ...]
    used_up: tuple[tuple[str, ...], ...]
    short: str | None


class _Needs(NamedTuple):
    """A phase's use of a source: mean lengths of a draw [4], and mean number of positions in the epoch per draw (too long samples included)."""

    lengths: npt.NDArray[np.float64]
    positions: float


def forecast(phases: Sequence[PhaseSettings], indexes: Sequence[SourceLengths], seed: int) -> Forecast:
    """Estimates how much the whole curriculum reads of each source.

    Args:
      phases: phases in order.
      indexes: lengths of all sources.
      seed: seed of the run.
    """
    by_name = {index.name: index for index in indexes}
    read = dict.fromkeys((name for phase in phases for name in phase.mixture), 0.0)
    epochs, used_up, short = [], [], None
    for phase in phases:
        left = {name: needs for name in phase.mixture if (needs := _needs(phase, by_name[name], seed))}
        before = set(read) - _remaining(read, by_name)
        rows = float(phase.rows)
        while rows > 0 and (left := {name: left[name] for name in left if name in _remaining(read, by_name)}):
            rows -= _read(phase, left, read, rows, by_name)
        if rows > _SHORT * phase.rows and short is None and set(phase.mixture) - _remaining(read, by_name):
            short = phase.name
        epochs.append(dict(read))
        used_up.append(tuple(sorted(set(read) - _remaining(read, by_name) - before)))
    return Forecast(tuple(epochs), tuple(used_up), short)


def _remaining(read: Mapping[str, float], indexes: Mapping[str, SourceLengths]) -> set[str]:
    """Returns the sources that are not used up."""
    return {name for name, epochs in read.items() if not indexes[name].max_epochs or epochs < indexes[name].max_epochs - 1e-9}


def _read(
    phase: PhaseSettings, left: Mapping[str, _Needs], read: dict[str, float], rows: float, indexes: Mapping[str, SourceLengths]
) -> float:
    """Simulates reading until the rows are full or a source is used up. Adds the epochs to `read` and returns the number of filled rows."""
    total = sum(phase.mixture[name] for name in left)
    shares = {name: phase.mixture[name] / total for name in left}
    mean = sum(shares[name] * needs.lengths for name, needs in left.items())
    draws_of_row = float((budgets(phase) / np.maximum(mean, 1e-9)).min())
    of_row = {name: draws_of_row * shares[name] * needs.positions / len(indexes[name].usable) for name, needs in left.items()}
    ends = [(indexes[name].max_epochs - read[name]) / of_row[name] for name in left if indexes[name].max_epochs]
    filled = min([rows, *ends])
    for name in left:
        read[name] += filled * of_row[name]
        if (most := indexes[name].max_epochs) and read[name] > most - 1e-9:
            read[name] = most
    return filled


def _needs(phase: PhaseSettings, index: SourceLengths, seed: int) -> _Needs | None:
    """Estimates the needs from random samples; None if none of them fits."""
    size = len(index.usable)
    chosen = permute(np.arange(min(size, _LOOKED_AT)), size, np.full(min(size, _LOOKED_AT), seed, np.uint64))
    every: Lookup = index.lengths(phase, seed)
    lengths = every[np.sort(np.asarray(index.usable[chosen], np.int64))]
    fits = (lengths <= budgets(phase)).all(axis=1)
    return _Needs(lengths[fits].mean(axis=0), len(fits) / fits.sum()) if fits.any() else None
