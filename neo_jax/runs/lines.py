"""Files of JSON lines that are only ever appended to."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any


def append_line(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Appends a line. One that a kill or a full disk cut before is ended first, so that it spoils no other. Raises OSError."""
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        cut = end > 0 and file.read(1) != b"\n"
        file.write((b"\n" if cut else b"") + json.dumps(values).encode() + b"\n")


def read_objects(path: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the lines that are objects, and how many others there are. A missing file has none. Raises OSError."""
    found: list[dict[str, Any]] = []
    texts = [text for text in path.read_bytes().splitlines() if text.strip()] if path.exists() else []
    for text in texts:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(values := json.loads(text), dict):
                found.append(values)
    return found, len(texts) - len(found)
