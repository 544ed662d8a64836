"""Checks that involve more than one section of the configuration."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from neo_jax.config.fields import (
    INVALID,
    near_divisors,
    nearest,
)
from neo_jax.config.phase import Phase


def _section(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Returns the section `key` of `values`; empty if it is not a section."""
    section = values.get(key)
    return section if isinstance(section, Mapping) else {}


def problems_between_sections(file: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence for each problem that involves several sections.

    Args:
      file: the sections as read, INVALID if they could not be read. Those have been reported already and are not checked.
      values: the sections as written in the file.
    """
    optimizer, evaluation = file["optimizer"], file["evaluation"]
    if INVALID not in (optimizer, evaluation) and evaluation.average and not optimizer.average:
        yield "evaluation.average: is True, but optimizer.average is 0, so that there is no average: set it, such as to 0.999"
    phases: Mapping[str, Phase] = {} if file["phases"] is INVALID else file["phases"]
    sources = _section(_section(values, "data"), "sources")
    for name, phase in phases.items():
        for source in phase.mixture:
            if source not in sources:
                known = ", ".join(sources) or "none"
                yield f"phases.{name}.mixture.{source}: no such source in data.sources ({known}){nearest(source, sources)}"
        if file["model"] is not INVALID:
            for axis, keys in (("tensor", ("heads", "kv_heads", "mlp", "vocabulary")), ("fsdp", ("hidden", "patch_channels"))):
                shards = getattr(phase.mesh, axis)
                for key in keys:
                    size = getattr(file["model"], key)
                    if size % shards:
                        would = near_divisors(size, shards)
                        yield f"phases.{name}.mesh.{axis}: model.{key} {size} does not divide by {shards}: {axis} {would} would"
            if file["model"].pre_buffer == "encoder" and phase.mesh.context > 1:
                yield f'phases.{name}.mesh.context: is {phase.mesh.context}, but model.pre_buffer "encoder" needs whole rows: set it to 1'
    if file["curriculum"] is INVALID:
        return
    curriculum: tuple[str, ...] = file["curriculum"]
    named = _section(values, "phases")
    if not curriculum:
        yield "curriculum: is empty: name at least one phase"
    for place, name in enumerate(curriculum):
        if name not in named:
            yield f"curriculum[{place}]: no phase {name!r} in phases{nearest(name, named)}"
        if name in curriculum[:place]:
            yield f"curriculum[{place}]: phase {name!r} is listed twice; rename the second"
    known_phases = [phases[name] for name in curriculum if name in phases]
    for before, after in itertools.pairwise(known_phases):
        if (before.architecture, after.architecture) == ("neo", "qwen3"):
            yield f"phases.{after.name}.architecture: is qwen3, but {before.name} before it is neo already: a neo cannot become a qwen3 again"
