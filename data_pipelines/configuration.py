"""Reads the input pipeline's part of a configuration file, without the trainer: phases, sources, tokenizer, failure limit."""

from __future__ import annotations

import dataclasses
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from data_pipelines.failures import FailurePolicy
from data_pipelines.schema import FRAME_CHOICES, IMAGE_BUDGETS, LOSS_WEIGHTINGS, RESIZES, DataError, PhaseSettings, SourceSettings

# Defaults of optional keys of a phase (neo_jax.config.Phase has the same; a test compares them).
PHASE_DEFAULTS: Mapping[str, Any] = {
    "visual_tokens": 0,
    "images": 0,
    "min_pixels": 0,
    "max_pixels": 0,
    "frames": 0,
    "frames_per_second": (1.0, 4.0),
    "frame_pixels": 0,
    "loss_weighting": "square",
    "resize": "exact",
    "frame_choice": "neo",
    "clip_pixels": 0,
    "image_budget": "neo",
    "jpeg_quality": (0, 0),
}
WORDS = {"frame_choice": FRAME_CHOICES, "image_budget": IMAGE_BUDGETS, "loss_weighting": LOSS_WEIGHTINGS, "resize": RESIZES}


class Configuration(NamedTuple):
    """The input pipeline's part of a configuration.

    Attributes:
      phases: phases in the order in which they are trained.
      training, heldout: the sources.
      index_folder: folder of the length indexes.
      tokenizer: path of the tokenizer, or "" if the file has none.
      add_special_tokens: argument of load_tokenizer.
      seed: seed of the run.
      policy: limits on the number of failed samples.
    """

    phases: tuple[PhaseSettings, ...]
    training: tuple[SourceSettings, ...]
    heldout: tuple[SourceSettings, ...]
    index_folder: str
    tokenizer: str
    add_special_tokens: bool
    seed: int
    policy: FailurePolicy

    def require_index(self) -> None:
        """Raises DataError if the tokenizer or the index folder, which a length index needs, is missing."""
        for key, value in (("tokenizer.path", self.tokenizer), ("data.index_folder", self.index_folder)):
            if not value:
                raise DataError(f"the configuration has no {key}: set it")


def read_configuration(file: str) -> Configuration:
    """Runs get_config(ARG) of FILE[:ARG] and reads the values that the input pipeline needs.

    Raises:
      DataError: the file does not run, or a required value is missing or has the wrong type. The message names the first such value.
    """
    path, _, argument = file.partition(":")
    if not pathlib.Path(path).is_file():
        raise DataError(f"--config={file}: no such file {path}")
    try:
        values = runpy.run_path(path)["get_config"](argument or None).to_dict()
    except Exception as error:  # the file is the user's program and may raise anything
        raise DataError(
            f"--config={file}: {path} does not run as a configuration, a file with get_config(arg) ({type(error).__name__}: {error})"
        ) from error
    root = _Section(file, "", values)
    data, tokenizer, phases = (root.section(key, {}) for key in ("data", "tokenizer", "phases"))
    run = root.section("run", {})
    training, heldout = (tuple(_sources(data.section(key, {}))) for key in ("sources", "heldout"))
    policy = FailurePolicy(
        data.value("max_failure_rate", float, FailurePolicy.max_rate),
        data.value("max_failure_run", int, FailurePolicy.max_run),
        data.value("minimum_samples", int, FailurePolicy.minimum_samples),
    )
    return Configuration(
        tuple(_phase(phases.section(str(name)), str(name)) for name in root.value("curriculum", tuple)),
        training,
        heldout,
        data.value("index_folder", str, ""),
        tokenizer.value("path", str, ""),
        tokenizer.value("add_special_tokens", bool, True),
        run.value("seed", int, 0),
        policy,
    )


class _Section:
    """A section of the configuration; values are checked against their types when read."""

    def __init__(self, file: str, path: str, values: Any):
        self._file, self._path, self.values = file, path, values
        if not isinstance(values, Mapping):
            raise DataError(f"--config={file}: {path} is {values!r}, must be a section with keys of its own")

    def section(self, key: str, default: Any = None) -> _Section:
        return _Section(self._file, self._name(key), self._get(key, default))

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        """Returns the value of a key, converted to `kind`. An int is accepted for a float, and a list for a tuple."""
        value = self._get(key, default)
        if isinstance(value, bool) is not (kind is bool) or not isinstance(
            value, {float: (int, float), tuple: (list, tuple)}.get(kind, kind)
        ):
            wanted = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", tuple: "a tuple"}[kind]
            self.refuse(key, f"is {value!r}, must be {wanted}")
        return kind(value)

    def pair(self, key: str, kind: type, values: tuple[Any, ...]) -> tuple[Any, Any]:
        """Returns (low, high) of numbers of a kind that are not negative. Whole numbers are numbers too."""
        if len(values) != 2 or not all(type(value) in (int, kind) and value >= 0 for value in values):
            self.refuse(key, f"is {values!r}, must be (low, high), two {'whole ' if kind is int else ''}numbers that are not negative")
        return kind(values[0]), kind(values[1])

    def refuse(self, key: str, sentence: str) -> NoReturn:
        """Raises DataError with a sentence about a key."""
        raise DataError(f"--config={self._file}: {self._name(key)} {sentence}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key, default)
        if value is None:
            self.refuse(key, "is missing: set it")
        return value

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def _phase(section: _Section, name: str) -> PhaseSettings:
    kinds = {"mixture": dict, "frames_per_second": tuple, "jpeg_quality": tuple} | dict.fromkeys(WORDS, str)
    names = [field.name for field in dataclasses.fields(PhaseSettings) if field.name not in ("name", "rows", "mixture")]
    fields = {key: section.value(key, kinds.get(key, int), PHASE_DEFAULTS.get(key)) for key in names}
    for key, words in WORDS.items():
        if fields[key] not in words:
            section.refuse(key, f"is {fields[key]!r}, must be one of {', '.join(words)}")
    for key, kind in (("frames_per_second", float), ("jpeg_quality", int)):
        fields[key] = section.pair(key, kind, fields[key])
    mixture = {source: weight for source, weight in section.section("mixture").values.items() if weight}
    rows = section.value("steps", int) * section.value("rows_per_step", int)
    settings = PhaseSettings(name=name, rows=rows, mixture=mixture, **fields)
    for key, sentence in settings.problems():
        section.refuse(key, sentence)
    return settings


def _path(section: _Section) -> str | tuple[str, ...]:
    """Returns the value of `path`: one path, or a tuple of paths."""
    if isinstance(section.values.get("path"), list | tuple):
        return tuple(map(str, section.value("path", tuple)))
    return str(section.value("path", str))


def _sources(sections: _Section) -> list[SourceSettings]:
    read = []
    for name in sections.values:
        section = sections.section(name)
        without_path = SourceSettings(name, section.value("format", str), _path(section))
        optional = [field.name for field in dataclasses.fields(SourceSettings)[3:]]
        fields = {key: section.value(key, type(getattr(without_path, key)), getattr(without_path, key)) for key in optional}
        read.append(settings := dataclasses.replace(without_path, **fields))
        for key, sentence in settings.problems():
            section.refuse(key, sentence)
    return read
