"""Extracts field descriptions from docstrings of dataclasses, for --help and docs/configuration.md."""

from __future__ import annotations

import dataclasses
import inspect
import re

_ENTRY = re.compile(r"  (\w+(?:, \w+)*): (.*)")


def field_descriptions(kind: type) -> dict[str, str]:
    """Returns the description of each field in the section "Attributes:" of a dataclass's docstring, and of those that it inherits from.

    Fields listed together share one description.
    """
    found: dict[str, str] = {}
    for base in kind.__bases__:
        found |= field_descriptions(base) if dataclasses.is_dataclass(base) else {}
    names: list[str] = []
    lines = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].splitlines()
    for line in lines:
        if entry := _ENTRY.fullmatch(line):
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif not line.startswith("    "):
            break
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
