"""Finds files whose names differ from a missing file's only in the case of letters, which copies between systems may cause."""

from __future__ import annotations

import functools
import itertools
import os

MOST_ENTRIES = 10_000  # entries of a folder that are searched


def near_name(path: str) -> str | None:
    """Returns the name of a file in the same folder that differs only in case; None if none is found among MOST_ENTRIES entries."""
    folder, name = os.path.split(path)
    return _by_folded_name(folder or ".").get(name.casefold())


@functools.lru_cache(64)
def _by_folded_name(folder: str) -> dict[str, str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name.casefold(): entry.name for entry in itertools.islice(entries, MOST_ENTRIES)}
    except OSError:  # the folder is missing too
        return {}
