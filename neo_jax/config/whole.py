"""The configuration of a run, as frozen dataclasses. It is checked completely before any file or device is opened.

A configuration file defines `get_config(arg) -> ConfigDict`, which returns the sections of `Sections`. `phases` has one section for each phase,
by name; `curriculum` lists names of phases in the order in which they are trained.
"""

from __future__ import annotations

import dataclasses
import itertools
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
    """The checked configuration of a run. `phases` holds the phases of the curriculum, in the order in which they are trained."""

    model: Model
    tokenizer: Tokenizer
    optimizer: Optimizer
    data: Data
    run: Run
    evaluation: Evaluation
    phases: tuple[Phase, ...]

    @classmethod
    def from_config_dict(cls, config_dict: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
        """Checks a configuration and returns it frozen. Raises ConfigError with all problems."""
        return _checked(config_dict.to_dict() if isinstance(config_dict, ml_collections.ConfigDict) else config_dict, [])

    def phase_ends(self) -> list[int]:
        """Returns the step of the whole run at which each phase ends."""
        return list(itertools.accumulate(phase.steps for phase in self.phases))

    def resolved(self) -> dict[str, Any]:
        """Returns the configuration with all defaults as plain dictionaries, which from_config_dict accepts."""
        values: dict[str, Any] = _plain(self)
        phases = values.pop("phases")
        return (
            values
            | {"phases": {phase.name: section for phase, section in zip(self.phases, phases, strict=True)}}
            | {"curriculum": [phase.name for phase in self.phases]}
        )

    def essential(self) -> dict[str, Any]:
        """Returns `resolved` without the run directory and without what has its default: equal for two configurations that train the same.

        A version that adds a key with a default leaves it as it is.
        """
        essential: dict[str, Any] = _departures(self)
        essential["phases"] = {phase.name: section for phase, section in zip(self.phases, essential["phases"], strict=True)}
        essential["run"].pop("directory", None)
        return essential | {"curriculum": [phase.name for phase in self.phases]}

    def to_json(self) -> str:
        """Returns the resolved configuration as JSON. Config.from_config_dict(json.loads(...)) returns an equal Config."""
        return json.dumps(self.resolved(), indent=2) + "\n"


def _checked(values: Mapping[str, Any], problems: list[str]) -> Config:
    """Returns the configuration. Raises ConfigError with `problems` and all further ones."""
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


def _departures(value: Any) -> Any:
    """Returns `_plain(value)` without the fields, at any depth, that have their default."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _departures(chosen)
            for field in dataclasses.fields(value)
            if field.name != "name" and (chosen := getattr(value, field.name)) != _default(field)
        }
    if isinstance(value, Mapping):
        return {key: _departures(entry) for key, entry in value.items()}
    return [_departures(entry) for entry in value] if isinstance(value, tuple) else value


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def parse_command_line(arguments: Sequence[str]) -> Config:
    """Returns the configuration of a command line.

    Args:
      arguments: --config=FILE[:ARG] --config.section.key=value ..., without the program's name.

    Raises:
      ConfigError: all problems of the command line and of the configuration.
    """
    values, problems = read_command_line(arguments, Sections)
    return _checked(values, problems)


def override(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Sets keys of a configuration's sections in place, as --config.KEY=VALUE does: wildcards, new sections and copies too.

    Args:
      values: the sections as plain dictionaries, as for Config.from_config_dict.
      settings: values by dotted key, such as {"phases.*.learning_rate": 1e-4}.

    Raises:
      ConfigError: all keys that do not exist and all wildcards that match nothing.
    """
    if problems := overrides.override(values, list(settings.items()), Sections):
        raise ConfigError(problems)
