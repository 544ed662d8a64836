"""The configuration: what a run is, as frozen dataclasses. Everything is checked here, at once, before anything is opened.

A configuration file has `get_config(arg) -> ConfigDict` with the sections of `Config`; `phases` is a section with one section for each
phase by name, and `curriculum` the names in the order in which they are trained.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from neo_jax.config import overrides
from neo_jax.config.command_line import read_command_line
from neo_jax.config.fields import ConfigError, Text, read_fields
from neo_jax.config.phase import Phase
from neo_jax.config.rules import problems_between_sections
from neo_jax.config.sections import Data, Evaluation, Model, Optimizer, Run, Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sections:
    """The sections of a configuration file."""

    model: Model
    tokenizer: Tokenizer
    optimizer: Optimizer = Optimizer()  # noqa: RUF009 (frozen)
    data: Data
    run: Run
    evaluation: Evaluation = Evaluation()  # noqa: RUF009 (frozen)
    phases: Mapping[str, Phase]
    curriculum: tuple[Text, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run depends on. `phases` are in the order in which they are trained."""

    model: Model
    tokenizer: Tokenizer
    optimizer: Optimizer
    data: Data
    run: Run
    evaluation: Evaluation
    phases: tuple[Phase, ...]

    @classmethod
    def from_config_dict(cls, config_dict: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
        """Checks and freezes a configuration. Raises ConfigError with everything that is wrong with it."""
        return _checked(config_dict.to_dict() if isinstance(config_dict, ml_collections.ConfigDict) else config_dict, [])

    def resolved(self) -> dict[str, Any]:
        """The configuration with all defaults as plain dictionaries: what from_config_dict takes, and what to_json writes."""
        values: dict[str, Any] = _plain(self)
        phases = values.pop("phases")
        return (
            values
            | {"phases": {phase.name: section for phase, section in zip(self.phases, phases, strict=True)}}
            | {"curriculum": [phase.name for phase in self.phases]}
        )

    def to_json(self) -> str:
        """The resolved configuration as JSON; Config.from_config_dict(json.loads(...)) gives an equal Config back."""
        return json.dumps(self.resolved(), indent=2) + "\n"


def _checked(values: Mapping[str, Any], problems: list[str]) -> Config:
    """The configuration, or ConfigError with these problems and all others."""
    problems = list(problems)
    file: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Sections)} | read_fields(
        Sections, values, "", problems
    )
    problems.extend(problems_between_sections(file, values))
    if problems:
        raise ConfigError(problems)
    phases, curriculum = file.pop("phases"), file.pop("curriculum")
    return Config(**file, phases=tuple(phases[name] for name in curriculum))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.name != "name"}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def parse_command_line(arguments: Sequence[str]) -> Config:
    """The configuration of a command line: --config=FILE[:ARG] --config.section.key=value ..., without the program's name.

    Raises:
      ConfigError: everything that is wrong with the command line or with the configuration.
    """
    values, problems = read_command_line(arguments, Sections)
    return _checked(values, problems)


def override(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Sets keys of a configuration's sections in place, as --config.KEY=VALUE does: wildcards, new sections and copies too.

    Args:
      values: as Config.from_config_dict takes them, plain dictionaries.
      settings: value by dotted key, such as {"phases.*.learning_rate": 1e-4}.

    Raises:
      ConfigError: a key that does not exist, or a wildcard that matches nothing, all of them at once.
    """
    if problems := overrides.override(values, list(settings.items()), Sections):
        raise ConfigError(problems)
