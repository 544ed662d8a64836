"""Sets keys of a configuration by dotted name, for command lines and sweeps.

run.seed                    one key
phases.*.mesh.fsdp          the same key in every phase; mid_* stands for the names that begin with mid_
data.sources.mine.path      a key of a new source (or phase): the section is created, and missing required keys are reported
phases.extra = "mid_512"    a new phase (or source) that is a copy of another, made before any other key is set
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from neo_jax.config.fields import field_types, nearest, parse_text, required_fields

Sections = dict[str, Any]


def override(values: Sections, settings: Sequence[tuple[str, Any]], layout: type, prefix: str = "") -> list[str]:
    """Sets keys in place. If a key is set several times, the last value counts.

    Args:
      values: the sections of a configuration.
      settings: (dotted key, value). A str value is parsed as on a command line, by the type of its field.
      layout: the dataclass whose fields are the sections.
      prefix: text before keys in messages.

    Returns:
      A sentence for each setting that cannot be applied. Values are not checked here, but later with the whole configuration.
    """
    problems: dict[str, None] = {}  # a dict, so that each sentence appears once: a wildcard may have the same problem in every phase
    before = {parent: set(names) for parent, names in _named_sections(values, layout)}
    copies = {key for key, value in settings if _is_copy(values, layout, key, value)}
    for key, value in settings:
        if key in copies and (problem := _copy(values, key, value)):
            problems[f"{prefix}{key}: {problem}"] = None
    for key, value in settings:
        if key in copies:
            continue
        kind, problem = _type_of(layout, key)
        paths = [] if problem else _matching(values, key)
        if not problem and not paths:
            problem = _no_match(values, key)
        elif dataclasses.is_dataclass(kind) or typing.get_origin(kind) is Mapping:
            problem = f"is a section: set one of its keys, {prefix}{key}.KEY={value}"
        for path in paths if not problem else []:
            problem = problem or _set(values, path, parse_text(kind, value) if isinstance(value, str) else value)
        if problem:
            problems[f"{prefix}{key}: {problem}"] = None
    for parent, names in _named_sections(values, layout):
        for name in [name for name in names if name not in before.get(parent, ())]:
            if problem := _problem_of_new(values, layout, parent, name, before.get(parent, set())):
                first = next(key for key, _ in settings if f"{key}.".startswith(f"{parent}.{name}."))
                problems[f"{prefix}{first}: {problem}"] = None
    return list(problems)


def _type_of(layout: type, key: str) -> tuple[Any, str | None]:
    """Returns (type of a key, None), or (None, message) if there is no such key. Names of phases and sources are not checked."""
    kind: Any = layout
    for segment in key.split("."):
        if typing.get_origin(kind) is Mapping:
            kind = typing.get_args(kind)[1]
        elif dataclasses.is_dataclass(kind):
            known = field_types(typing.cast(type, kind))
            if "*" in segment:
                return None, f"* stands for the names of phases and sources, not for {segment!r} of {', '.join(known)}"
            if segment not in known:
                return None, f"unknown key {segment!r}{nearest(segment, known)}"
            kind = known[segment]
        else:
            return None, f"{segment!r} is below a key that is not a section"
        if typing.get_origin(kind) is Annotated:
            kind = typing.get_args(kind)[0]
    return kind, None


def _is_copy(values: Sections, layout: type, key: str, value: Any) -> bool:
    """Returns whether a setting copies a phase or source to a new name."""
    parent, _, name = key.rpartition(".")
    if not parent or "*" in key or not isinstance(value, str):
        return False
    kind, problem = _type_of(layout, parent)
    return (
        not problem
        and typing.get_origin(kind) is Mapping
        and dataclasses.is_dataclass(typing.get_args(kind)[1])
        and name not in _at(values, parent.split("."))
    )


def _copy(values: Sections, key: str, origin: str) -> str | None:
    """Copies the section `origin` to `key`; returns a message if there is no such section, else None."""
    *parent, name = key.split(".")
    section = _at(values, parent)
    if origin not in section:
        return f"no {origin!r} to copy: there are {', '.join(section) or 'none'}{nearest(origin, section)}"
    section[name] = copy.deepcopy(section[origin])
    return None


def _at(values: Sections, path: Iterable[str]) -> Sections:
    """Returns the section at a path; an empty one, which is not part of `values`, if there is none."""
    for segment in path:
        inner = values.get(segment)
        if not isinstance(inner, dict):
            return {}
        values = inner
    return values


def _matching(values: Sections, key: str) -> list[list[str]]:
    """Returns the paths that a key with wildcards matches; a key without wildcards is its own match."""
    paths: list[list[str]] = [[]]
    for segment in key.split("."):
        if "*" in segment:
            paths = [[*path, name] for path in paths for name in fnmatch.filter(_at(values, path), segment)]
        else:
            paths = [[*path, segment] for path in paths]
    return paths


def _no_match(values: Sections, key: str) -> str:
    segments = key.split(".")
    for place, segment in enumerate(segments):
        above = ".".join(segments[:place])
        if "*" in segment and not _matching(values, ".".join(segments[: place + 1])):
            names = dict.fromkeys(name for path in (_matching(values, above) if above else [[]]) for name in _at(values, path))
            return f"{segment!r} matches nothing in {above}: there are {', '.join(names) or 'none'}"
    raise AssertionError(f"{key} matches something")


def _set(values: Sections, path: list[str], value: Any) -> str | None:
    for segment in path[:-1]:
        values = values.setdefault(segment, {})
        if not isinstance(values, dict):
            return f"{segment} is {values!r} in the file, must be a section with keys of its own"
    values[path[-1]] = value
    return None


def _named_sections(values: Sections, layout: type, parent: str = "") -> list[tuple[str, list[str]]]:
    """Returns (dotted key, names of its sections) of each section that holds sections by name: phases, sources, held-out sources."""
    found = []
    for key, hint in field_types(layout).items():
        inner = f"{parent}.{key}" if parent else key
        if dataclasses.is_dataclass(hint):
            found += _named_sections(values, typing.cast(type, hint), inner)
        elif typing.get_origin(hint) is Mapping and dataclasses.is_dataclass(typing.get_args(hint)[1]):
            found.append((inner, list(_at(values, inner.split(".")))))
    return found


def _problem_of_new(values: Sections, layout: type, parent: str, name: str, known: set[str]) -> str | None:
    """Returns a message if a new section seems to be a misspelt existing one: it lacks required keys and its name is similar."""
    kind, _ = _type_of(layout, f"{parent}.{name}")
    missing = [key for key in required_fields(kind) if key not in _at(values, [*parent.split("."), name])]
    if missing and (alike := nearest(name, known)):
        return f"unknown key {name!r}{alike} A new one lacks {', '.join(missing)}"
    return None
