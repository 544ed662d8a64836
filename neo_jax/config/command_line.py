"""Reads the configuration from a command line: --config=FILE[:ARG], and --config.section.key=value for single keys.

FILE is a Python file with get_config(arg), or the config.json that a run has written.
"""

from __future__ import annotations

import json
import os
import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

from neo_jax import exit_codes
from neo_jax.config.fields import ConfigError
from neo_jax.config.flags import Command, NoFlags, read_flags
from neo_jax.config.overrides import override

CONFIGURED = Command(
    "neo_jax.train", "Reads a configuration, as the commands that take one do.", "--config=configs/demo.py", (exit_codes.CONFIGURATION,)
)


def read_command_line(arguments: Sequence[str], layout: type) -> tuple[dict[str, Any], list[str]]:
    """Loads the configuration file named on a command line and applies the overrides. If a key is overridden twice, the last value counts.

    Args:
      arguments: without the program's name.
      layout: the dataclass whose fields are the file's sections.

    Returns:
      The sections, not yet checked; and a sentence for each new phase that is not in the curriculum.

    Raises:
      ConfigError: no file is named, an argument is not understood, or overrides cannot be applied; with all such problems.
    """
    _, rest = read_flags(NoFlags, arguments, CONFIGURED)
    settings = [(name.removeprefix("--"), text) for name, _, text in (argument.partition("=") for argument in rest)]
    files = [text for name, text in settings if name == "config"]
    if len(files) != 1:
        raise ConfigError([f"--config is given {len(files)} times, must be given once: write {CONFIGURED.example}"])
    values = load(files[0])
    known = set(values.get("phases", ()))
    overrides = [(name.removeprefix("config."), text) for name, text in settings if name != "config"]
    if problems := override(values, overrides, layout, "--config."):
        raise ConfigError(problems)
    curriculum = values.get("curriculum", ())
    untrained = [name for name in values.get("phases", ()) if name not in known and name not in curriculum]
    return values, [
        f"phases.{name}: is new and not in the curriculum, so it would not be trained: add it, --config.curriculum={','.join([*curriculum, name])}"
        for name in untrained
    ]


def load(file: str) -> dict[str, Any]:
    """Returns the sections of a configuration file as dictionaries: of get_config(ARG) in FILE[:ARG], or of a run's config.json.

    Raises:
      ConfigError: the file cannot be read, or does not run.
    """
    path, _, argument = file.partition(":")
    path = os.path.expanduser(path)
    if not pathlib.Path(path).is_file():
        raise ConfigError([f"--config={file}: no such file {path}"])
    if path.endswith(".json"):
        return _resolved(file, path, argument)
    try:
        names = runpy.run_path(path)
    except Exception as error:  # the user's code may raise anything
        raise ConfigError([f"--config={file}: {path} does not run as a configuration ({type(error).__name__}: {error})"]) from error
    if "get_config" not in names:
        raise ConfigError([f"--config={file}: {path} has no function get_config(arg)"])
    try:
        config = names["get_config"](argument or None)
    except ValueError as error:
        raise ConfigError([f"--config={file}: {error}"]) from error
    return _copy(config.to_dict())


def _resolved(file: str, path: str, argument: str) -> dict[str, Any]:
    if argument:
        raise ConfigError([f"--config={file}: a .json file takes no argument after a colon"])
    try:
        values = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError([f"--config={file}: cannot be read as JSON ({error})"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"--config={file}: is not an object with the sections of a configuration, as config.json of a run is"])
    return values


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copies sections deeply: a file may use one dictionary for two phases, and an override of one must not change the other."""
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}
