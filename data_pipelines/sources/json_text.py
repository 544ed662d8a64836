"""Reads JSON of rows, bounded in depth: what reads rows walks through them by recursion."""

from __future__ import annotations

import json
from typing import Any

MOST_LEVELS = 100


def read_json(text: bytes | str) -> Any:
    """Returns a JSON value. Raises ValueError if it is not valid or is nested more than MOST_LEVELS deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it has more than {MOST_LEVELS} levels of nesting") from None
    brackets = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if brackets > MOST_LEVELS and _is_deep(value):
        raise ValueError(f"it has more than {MOST_LEVELS} levels of nesting")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = [inner for each in level if isinstance(each, dict | list) for inner in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return False
    return True
