"""Checks single values of a row."""

from __future__ import annotations

import math
import re
from typing import Any

from data_pipelines.schema import SampleError
from data_pipelines.text.marks import NONCHARACTER

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_KINDS: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}


def read_text(value: object, what: str, where: str) -> str:
    """Returns a string after checking its characters: JSON can contain half of a surrogate pair, which files and tokenizers cannot.

    Raises SampleError "bad_record" for another type, "bad_text" for half of a surrogate pair or the reserved character U+FDD0.
    """
    if not isinstance(value, str):
        raise SampleError("bad_record", f"{where}: {what} must be a string, not {kind_of(value)}")
    if value.isascii():
        return value
    if _HALF_A_PAIR.search(value):
        raise SampleError(
            "bad_text", f"{where}: {what} holds half of a surrogate pair (a string cut in the middle of an emoji): repair the text"
        )
    if NONCHARACTER in value:
        raise SampleError("bad_text", f"{where}: {what} holds U+FDD0, which Unicode keeps for a program's own use: delete it")
    return value


def read_number(value: object, what: str, where: str) -> float:
    """Returns a finite number. Raises SampleError "bad_record"."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SampleError("bad_record", f"{where}: {what} must be a number, not {value!r}")
    return float(value)


def kind_of(value: object) -> str:
    """Returns the kind of a JSON value for a message, such as "a list"."""
    return _KINDS.get(type(value), "null")


def is_empty(value: Any) -> bool:
    """Returns True if a value has no content. Such values are common, since exports write every column in every row."""
    if isinstance(value, (str, bytes)):  # tuples: a union would be built anew in each of a row's many calls
        return not value
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_empty, value))
    return value is None
