"""Reads frozen dataclasses from nested dictionaries: checks every key, type and range, and collects all problems.

The type of a field determines which values it accepts: int, float, bool, str, tuple, a dataclass, Mapping[str, ...] of these, or
Annotated[type, rule] with the rules below. Annotated[str, pathlib.Path] is a path, in which ~ stands for the home folder. X | tuple[X, ...] is one X
or several. A dataclass may define `problems()`, which yields (key, sentence) for problems that involve several of its fields.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import math
import os
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any


class ConfigError(ValueError):
    """A configuration that cannot be used.

    Attributes:
      problems: one sentence each, with the key, what is wrong, and what to do.
    """

    def __init__(self, problems: list[str]):
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in the configuration:" + "".join(f"\n  {problem}" for problem in problems))


@dataclasses.dataclass(frozen=True)
class Between:
    """Rule for a number within limits. The limits are included unless `open_low` or `open_high` is set."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def problem(self, value: float) -> str | None:
        """Returns what is wrong with a value, or None if it is valid."""
        fits = (value > self.low if self.open_low else value >= self.low) and (value < self.high if self.open_high else value <= self.high)
        if fits and math.isfinite(value):
            return None
        return f"is {value}, must be {self}"

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {_plain(self.low)}"
        return low if self.high == math.inf else f"{low} and {'below' if self.open_high else 'at most'} {_plain(self.high)}"


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Rule for a text that must be one of `words`."""

    words: tuple[str, ...]

    def problem(self, value: str) -> str | None:
        return None if value in self.words else f"is {value!r}, must be {self}{nearest(value, self.words)}"

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """Rule for a text with at least one character that is not white space."""

    def problem(self, value: str) -> str | None:
        return None if value.strip() else "is empty: set it"

    def __str__(self) -> str:
        return "not empty"


Whole = Annotated[int, Between(0)]
Seed = Annotated[int, Between(0, 2**31 - 1)]
Positive = Annotated[int, Between(1)]
Ratio = Annotated[float, Between(0, 1)]
BelowOne = Annotated[float, Between(0, 1, open_high=True)]
AboveZero = Annotated[float, Between(0, open_low=True)]
AtLeastZero = Annotated[float, Between(0)]
Text = Annotated[str, NotEmpty()]
Path = Annotated[str, NotEmpty(), pathlib.Path]
OptionalPath = Annotated[str, pathlib.Path]

INVALID: Any = object()
_WANTED = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def nearest(key: str, known: Iterable[str]) -> str:
    """Returns "; did you mean ...?" with the known key that is most similar to this one, or "" if none is similar."""
    alike = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    return f"; did you mean {alike[0]!r}?" if alike else ""


def near_multiples(number: int, of: int) -> str:
    """Returns the nearest multiples of `of` to a number, such as "36 or 40"; only those above 0."""
    return " or ".join(str(multiple) for multiple in sorted({number // of * of, -(-number // of) * of}) if multiple)


def near_divisors(number: int, wanted: int) -> str:
    """Returns the divisors of a number that are nearest to `wanted`, such as "2 or 4"."""
    divisors = [size for size in range(1, number + 1) if number % size == 0]
    return " or ".join(
        str(each) for each in sorted({max(d for d in divisors if d <= wanted), min((d for d in divisors if d >= wanted), default=number)})
    )


@functools.cache  # annotations are texts, which are compiled at each look: it took nine tenths of the time to read a configuration
def field_types(kind: type) -> Mapping[str, Any]:
    """Returns the types of a dataclass's fields that a configuration sets. `name` is left out: it is the key of the section."""
    hints = typing.get_type_hints(kind, include_extras=True).items()
    return types.MappingProxyType({name: hint for name, hint in hints if name != "name"})


def required_fields(kind: type) -> list[str]:
    """Returns the names of the fields that have no default."""
    fields = [field for field in dataclasses.fields(kind) if field.name in field_types(kind)]
    return [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]


def read_fields(kind: type, values: Any, path: str, problems: list[str]) -> dict[str, Any]:
    """Reads a section; returns the value of each field, INVALID if it cannot be read. Appends to `problems`."""
    if not isinstance(values, Mapping):
        problems.append(f"{path}: is {values!r}, must be a section with keys of its own")
        return dict.fromkeys(field_types(kind), INVALID)
    prefix = f"{path}." if path else ""
    fields = field_types(kind)
    for key in values:
        if key not in fields:
            missing = [field for field in fields if field not in values]
            problems.append(f"{prefix}{key}: unknown key{nearest(key, missing) or nearest(key, fields)}")
    read = {}
    required = required_fields(kind)
    for key, hint in fields.items():
        if key in values:
            read[key] = read_value(hint, values[key], prefix + key, problems)
        elif key in required:
            problems.append(f"{prefix}{key}: missing: set it")
            read[key] = INVALID
    return read


def parse_text(hint: Any, text: str) -> Any:
    """Parses a value from a command line for a field of type `hint`.

    For a str the text is returned as it is, for other types it is parsed as a Python literal; a tuple may also be written a,b. Text that is not a
    literal is returned unchanged: read_value reports it.
    """
    if _is_one_or_several(hint):
        hint = typing.get_args(hint)[text.startswith(("(", "["))]
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if hint is str:
        return text
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return tuple(part.strip() for part in text.rstrip(",").split(",")) if typing.get_origin(hint) is tuple else text


def read_value(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
    """Reads the value of a field; returns INVALID and appends to `problems` if it violates the field's type or rules."""
    if _is_one_or_several(hint):
        hint = typing.get_args(hint)[isinstance(value, list | tuple)]
    rules: list[Any] = []
    if typing.get_origin(hint) is Annotated:
        hint, *rules = typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(typing.cast(type, hint), value, path, problems)
    if typing.get_origin(hint) is Mapping:
        return _read_mapping(typing.get_args(hint)[1], value, path, problems)
    if typing.get_origin(hint) is tuple:
        return _read_tuple(typing.get_args(hint), value, path, problems)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, (int, float) if hint is float else hint):
        problems.append(f"{path}: is {value!r}, must be {_WANTED[hint]}")
        return INVALID
    for rule in rules:
        wrong = _home_folder_problem(str(value)) if rule is pathlib.Path else rule.problem(value) if hasattr(rule, "problem") else None
        if wrong:
            problems.append(f"{path}: {wrong}")
            return INVALID
    return os.path.expanduser(str(value)) if pathlib.Path in rules else hint(value)


def _is_one_or_several(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _home_folder_problem(value: str) -> str | None:
    """Returns a message if a path begins with ~ but names no home folder, else None."""
    if os.path.expanduser(value).startswith("~"):
        return f"is {value!r}, but {value.split('/')[0]!r} is no user's home folder: write the absolute path, or ./{value} for a folder of that name"
    return None


def _read_dataclass(kind: type, value: Any, path: str, problems: list[str]) -> Any:
    read = read_fields(kind, value, path, problems)
    if any(field is INVALID for field in read.values()):
        return INVALID
    names = {"name": path.rpartition(".")[2]} if "name" in typing.get_type_hints(kind) else {}
    settings = kind(**read, **names)
    check: Iterator[tuple[str, str]] = settings.problems() if hasattr(settings, "problems") else iter(())
    problems.extend(f"{path}.{key}: {sentence}" for key, sentence in check)
    return settings


def _read_mapping(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{path}: is {value!r}, must be a section with keys of its own")
        return INVALID
    read = {}
    for key, entry in value.items():
        if not key.isidentifier():
            problems.append(f"{path}.{key}: names are letters, digits and underscores, and begin with no digit")
        read[key] = read_value(hint, entry, f"{path}.{key}", problems)
    return {key: entry for key, entry in read.items() if entry is not INVALID}


def _read_tuple(hints: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    count = None if hints[-1] is Ellipsis else len(hints)
    if not isinstance(value, list | tuple) or (count is not None and len(value) != count):
        problems.append(f"{path}: is {value!r}, must be {count if count else 'a tuple of'} values in brackets, such as (a, b)")
        return INVALID
    each: Iterable[Any] = hints[:1] * len(value) if count is None else hints
    read = [read_value(hint, entry, f"{path}[{i}]", problems) for i, (hint, entry) in enumerate(zip(each, value, strict=True))]
    return INVALID if any(entry is INVALID for entry in read) else tuple(read)
