"""Reading frozen dataclasses from nested dictionaries: every key, type and range is checked, and all problems are collected.

A field's type says what it may hold: int, float, bool, str, tuple, a dataclass, Mapping[str, ...] of these, or Annotated[type, rule] with
the rules below. A dataclass may define `problems()`, which yields (key, sentence) for what depends on several of its fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any


class ConfigError(ValueError):
    """A configuration that cannot be used.

    Attributes:
      problems: one sentence each: the key, what is wrong, what to do.
    """

    def __init__(self, problems: list[str]):
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in the configuration:" + "".join(f"\n  {problem}" for problem in problems))


@dataclasses.dataclass(frozen=True)
class Between:
    """A number within limits, both included unless `open_low` or `open_high`."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def problem(self, value: float) -> str | None:
        fits = (value > self.low if self.open_low else value >= self.low) and (value < self.high if self.open_high else value <= self.high)
        if fits and math.isfinite(value):
            return None
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        return f"is {value}, must be {low}" if self.high == math.inf else f"is {value}, must be {low} and {self._upper()}"

    def _upper(self) -> str:
        return f"{'below' if self.open_high else 'at most'} {self.high:g}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of some words."""

    words: tuple[str, ...]

    def problem(self, value: str) -> str | None:
        return None if value in self.words else f"is {value!r}, must be one of {', '.join(self.words)}{nearest(value, self.words)}"


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """A text of at least one character."""

    def problem(self, value: str) -> str | None:
        return None if value.strip() else "is empty: set it"


Whole = Annotated[int, Between(0)]
Seed = Annotated[int, Between(0, 2**31 - 1)]
Positive = Annotated[int, Between(1)]
Ratio = Annotated[float, Between(0, 1)]
BelowOne = Annotated[float, Between(0, 1, open_high=True)]
AboveZero = Annotated[float, Between(0, open_low=True)]
AtLeastZero = Annotated[float, Between(0)]
Text = Annotated[str, NotEmpty()]

INVALID: Any = object()
_WANTED = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def nearest(key: str, known: Iterable[str]) -> str:
    """Returns "; did you mean ...?" with the known key most like this one, or "" when none is alike."""
    alike = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    return f"; did you mean {alike[0]!r}?" if alike else ""


def near_multiples(number: int, of: int) -> str:
    """The multiples next to a number, "36 or 40", and above 0."""
    return " or ".join(str(multiple) for multiple in sorted({number // of * of, -(-number // of) * of}) if multiple)


def near_divisors(number: int, wanted: int) -> str:
    """The divisors of a number next to one that was wanted, "2 or 4"."""
    divisors = [size for size in range(1, number + 1) if number % size == 0]
    return " or ".join(
        str(each) for each in sorted({max(d for d in divisors if d <= wanted), min((d for d in divisors if d >= wanted), default=number)})
    )


def field_types(kind: type) -> dict[str, Any]:
    """The fields of a dataclass that a configuration sets, with their types. `name` is the key it stands under."""
    return {name: hint for name, hint in typing.get_type_hints(kind, include_extras=True).items() if name != "name"}


def read_fields(kind: type, values: Any, path: str, problems: list[str]) -> dict[str, Any]:
    """Reads a section; returns the value of each field, INVALID where it could not be read, and appends to `problems`."""
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
    defaults = {
        f.name for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
    }
    for key, hint in fields.items():
        if key in values:
            read[key] = _read_value(hint, values[key], prefix + key, problems)
        elif key not in defaults:
            problems.append(f"{prefix}{key}: missing: set it")
            read[key] = INVALID
    return read


def _read_value(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
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
        if wrong := rule.problem(value):
            problems.append(f"{path}: {wrong}")
            return INVALID
    return hint(value)


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
        read[key] = _read_value(hint, entry, f"{path}.{key}", problems)
    return {key: entry for key, entry in read.items() if entry is not INVALID}


def _read_tuple(hints: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    count = None if hints[-1] is Ellipsis else len(hints)
    if not isinstance(value, list | tuple) or (count is not None and len(value) != count):
        problems.append(f"{path}: is {value!r}, must be {count if count else 'a tuple of'} values in brackets, such as (a, b)")
        return INVALID
    each: Iterable[Any] = hints[:1] * len(value) if count is None else hints
    read = [_read_value(hint, entry, f"{path}[{i}]", problems) for i, (hint, entry) in enumerate(zip(each, value, strict=True))]
    return INVALID if any(entry is INVALID for entry in read) else tuple(read)
