"""What a key of a sweep may be: for random draws (choices.draws) and searches (search.Search)."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A number from low to high."""

    low: float
    high: float

    def draw(self, generator: random.Random) -> float:
        return generator.uniform(self.low, self.high)


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """A number from low to high whose logarithm is uniform: for learning rates."""

    low: float
    high: float

    def draw(self, generator: random.Random) -> float:
        return math.exp(generator.uniform(math.log(self.low), math.log(self.high)))


@dataclasses.dataclass(frozen=True)
class Integers:
    """A whole number from low to high, both included."""

    low: int
    high: int

    def draw(self, generator: random.Random) -> int:
        return generator.randint(self.low, self.high)


@dataclasses.dataclass(frozen=True, init=False)
class Choice:
    """One of some values, in no order."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, "values", values)

    def draw(self, generator: random.Random) -> Any:
        return generator.choice(self.values)


Dimension = Uniform | LogUniform | Integers | Choice


def dimension_problems(each: Any) -> list[str]:
    """Returns a sentence for each problem of what a sweep file gives as a dimension."""
    if isinstance(each, Choice):
        plain = all(value is None or isinstance(value, bool | int | float | str) for value in each.values)
        distinct = plain and len(set(each.values)) == len(each.values) > 0
        return [] if distinct else [f"{each} must have values, each once: numbers, texts, True, False or None"]
    if not isinstance(each, Uniform | LogUniform | Integers):
        return [f"{each!r} must be a Uniform, LogUniform, Integers or Choice"]
    fits = is_whole if isinstance(each, Integers) else _is_number
    if not (fits(each.low) and fits(each.high) and each.low < each.high):
        return [f"{each} must go from a {'whole ' if isinstance(each, Integers) else ''}number to a greater one"]
    return [f"{each} must begin above 0"] if isinstance(each, LogUniform) and each.low <= 0 else []


def holds(each: Dimension, value: Any) -> bool:
    """Returns whether a value lies in a dimension."""
    if isinstance(each, Choice):
        return any(value == known and type(value) is type(known) for known in each.values)
    return (is_whole if isinstance(each, Integers) else _is_number)(value) and each.low <= value <= each.high


def is_whole(value: Any) -> bool:
    """Returns whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
