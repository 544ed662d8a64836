"""The command line of a configured run: --config=FILE[:ARG] and overrides of single keys, --config.section.key=value."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import runpy
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from neo_jax.config.fields import ConfigError, field_types, nearest

USAGE = "--config=configs/demo.py, and --config.section.key=value for single keys"


def read_command_line(arguments: Sequence[str], layout: type) -> dict[str, Any]:
    """Loads the configuration file named on a command line and applies the overrides, of which the last of a key holds.

    Args:
      arguments: without the program's name.
      layout: the dataclass whose fields are the file's sections.

    Raises:
      ConfigError: no file, an argument that is none of the above, or overrides of unknown keys, all of them at once.
    """
    problems: list[str] = []
    files: list[str] = []
    overrides: list[tuple[str, str]] = []
    for argument in arguments:
        key, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
        if not argument.startswith("-") or not equals or not (key == "config" or key.startswith("config.")):
            problems.append(f"{argument}: not understood: write {USAGE}")
        elif key == "config":
            files.append(text)
        else:
            overrides.append((key.removeprefix("config."), text))
    if len(files) != 1:
        problems.append(f"--config is given {len(files)} times, must be given once: write {USAGE}")
    if problems:
        raise ConfigError(problems)
    values = load(files[0])
    for path, text in overrides:
        if problem := _override(values, layout, path, text):
            problems.append(f"--config.{path}: {problem}")
    if problems:
        raise ConfigError(problems)
    return values


def load(file: str) -> dict[str, Any]:
    """Runs get_config(ARG) of a configuration file FILE[:ARG] and returns its sections as dictionaries. Raises ConfigError."""
    path, _, argument = file.partition(":")
    if not pathlib.Path(path).is_file():
        raise ConfigError([f"--config={file}: no such file {path}"])
    try:
        names = runpy.run_path(path)
    except Exception as error:  # it is the user's program: anything may go wrong in it
        raise ConfigError([f"--config={file}: {path} does not run as a configuration ({type(error).__name__}: {error})"]) from error
    if "get_config" not in names:
        raise ConfigError([f"--config={file}: {path} has no function get_config(arg)"])
    try:
        config = names["get_config"](argument or None)
    except ValueError as error:
        raise ConfigError([f"--config={file}: {error}"]) from error
    return _copy(config.to_dict())


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of their own: a file may write the same dictionary into two phases, and an override of one is not one of the other."""
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _override(values: dict[str, Any], layout: type, path: str, text: str) -> str | None:
    """Sets one key. Sections are followed by their types, so that keys left to their defaults can be set too. Returns what is wrong."""
    *sections, last = path.split(".")
    kind: Any = layout
    for key in [*sections, last]:
        if typing.get_origin(kind) is Mapping:
            known: Mapping[str, Any] = values
            kind = typing.get_args(kind)[1]
            free = not dataclasses.is_dataclass(kind)  # a mixture may take up another source
        elif dataclasses.is_dataclass(kind):
            known, free = field_types(typing.cast(type, kind)), False
            kind = known.get(key)
        else:
            return f"{key!r} stands in a value, not in a section"
        if key not in known and not free:
            return f"unknown key {key!r}{nearest(key, known)}"
        if typing.get_origin(kind) is Annotated:
            kind = typing.get_args(kind)[0]
        if key is not last:
            values = values.setdefault(key, {})
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is Mapping:
        return f"is a section: set one of its keys, --config.{path}.KEY={text}"
    values[last] = text if kind is str else _literal(text)
    return None


def _literal(text: str) -> Any:
    """A number, truth value or tuple as Python writes it; other text stays text, and the check of the whole says what was wanted."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
