"""The conditions of a source's `keep`, written as "NAME OPERATOR VALUE". They select the samples that are trained on."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

MEASURES = ("tokens", "images", "clips", "pixels", "side", "aspect", "seconds")  # values of a sample that the length index contains
COLUMN = "column."

_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
_CONDITION = re.compile(r"\s*(\w[\w.\- ]*?)\s*(<=|>=|==|!=|<|>|\bnot\s+in\b|\bin\b)\s*(\S.*?)\s*")


class Condition(NamedTuple):
    """One condition.

    Attributes:
      name: one of MEASURES, or COLUMN followed by the name of a row's column.
      operator: one of <=, >=, <, >, ==, !=, "in" and "not in".
      value: a number; for "in" and "not in", the texts.
    """

    name: str
    operator: str
    value: float | tuple[str, ...]

    @property
    def column(self) -> str:
        """Name of the row's column that is compared; "" for a measure."""
        return self.name.removeprefix(COLUMN) if self.name.startswith(COLUMN) else ""

    def holds(self, values: Any) -> Any:
        """Returns whether the condition holds for a number, or for each number of an array."""
        return _COMPARISONS[self.operator](values, self.value)

    def holds_for(self, record: Mapping[str, Any]) -> bool:
        """Returns whether the condition holds for a row. False if the row lacks the column, or has a text for a numeric comparison."""
        value = record.get(self.column)
        if isinstance(self.value, tuple):
            return value is not None and (_text(value) in self.value) == (self.operator == "in")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return not math.isnan(value) and bool(self.holds(value))

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {', '.join(self.value) if isinstance(self.value, tuple) else f'{self.value:g}'}"


def read_condition(text: str) -> Condition:
    """Parses "NAME OPERATOR VALUE". Raises ValueError with a sentence that explains the error."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(
            'must be "NAME OPERATOR VALUE" with one of the operators <=, >=, <, >, ==, !=, in, not in: "aspect <= 4", "column.language in en, de"'
        )
    name, how, value = found.groups()
    how = " ".join(how.split())
    if name not in MEASURES and not (name.startswith(COLUMN) and name != COLUMN):
        raise ValueError(
            f"{name!r} is nothing that is known of a sample: use one of {', '.join(MEASURES)}, or {COLUMN}NAME for a row's column"
        )
    if how in ("in", "not in"):
        if not name.startswith(COLUMN):
            raise ValueError(f'{name} is a number: compare it with <=, >=, <, >, == or !=; "in" is for texts in a row\'s column')
        return Condition(name, how, tuple(part.strip() for part in value.split(",")))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ValueError(f'{value!r} is no number; a text is compared with "in": "{name} in {value}"')
    return Condition(name, how, number)


def of_columns(keep: Sequence[str]) -> list[Condition]:
    """Returns the conditions on columns of rows."""
    return [condition for condition in map(read_condition, keep) if condition.column]


def of_measures(keep: Sequence[str]) -> list[Condition]:
    """Returns the conditions on values that the length index contains."""
    return [condition for condition in map(read_condition, keep) if not condition.column]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
