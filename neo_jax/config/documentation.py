"""What docstrings say of the fields of a dataclass: one text for the reader of the code, of --help and of docs/configuration.md."""

from __future__ import annotations

import inspect
import re

_ENTRY = re.compile(r"  (\w+(?:, \w+)*): (.*)")


def field_descriptions(kind: type) -> dict[str, str]:
    """Returns the text of each field that the section "Attributes:" of a dataclass' docstring names; fields named together share one."""
    found: dict[str, str] = {}
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
