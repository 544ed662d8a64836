"""Patterns of parameters' names: learning rates of single groups (phases.NAME.rates), and whether what phases name exists."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

import jax

from neo_jax import config
from neo_jax.config.fields import nearest
from neo_jax.config.phase import trains_entries
from neo_jax.model.backbone import abstract
from neo_jax.model.freezing import matches, trains
from neo_jax.sharding import make_mesh

Factors = tuple[tuple[str, float], ...]  # (parameter, factor), of those whose factor is not 1; hashable: programs are compiled for them


def rate_factors(phase: config.Phase, names: Iterable[str]) -> Factors:
    """Returns the factors of the learning rates of some parameters. Of several patterns that match, the last one counts."""
    found = []
    for name in sorted(names):
        factor = next((factor for pattern, factor in reversed(phase.rate_patterns()) if fnmatch.fnmatchcase(name, pattern)), 1.0)
        if factor != 1.0:
            found.append((name, factor))
    return tuple(found)


def pattern_problems(settings: config.Config) -> list[str]:
    """Returns a sentence for each pattern in `trains` that matches no parameter, and in `rates` that matches none that the phase trains."""
    problems = []
    for phase in settings.phases:
        if not phase.rates and phase.trains in ("all", "new"):
            continue
        with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
            every = list(abstract(settings.model, phase.architecture))
        names = [name for name in every if trains(name, phase.trains)]
        for entry in trains_entries(phase.trains):
            if not any(matches(name, entry.removeprefix("!")) for name in every):
                problems.append(
                    f"phases.{phase.name}.trains: {entry!r} matches no parameter{nearest(entry, every)}: there are {', '.join(sorted(every))}"
                )
        if not names:
            problems.append(f"phases.{phase.name}.trains: {phase.trains!r} leaves no parameter to train")
            continue
        for pattern, _ in phase.rate_patterns():
            if not fnmatch.filter(names, pattern):
                problems.append(
                    f"phases.{phase.name}.rates: {pattern!r} matches no parameter that the phase trains{nearest(pattern, names)}: it trains "
                    f"{', '.join(sorted(names))}"
                )
    return problems
