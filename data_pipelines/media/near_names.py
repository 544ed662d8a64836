"""Files whose names differ from one that is missing in the case of letters alone, as copies between systems leave them."""

from __future__ import annotations

import functools
import itertools
import os
import pathlib

MOST_ENTRIES = 10_000  # of a folder that are looked at


def near_name(path: pathlib.Path) -> str | None:
    """The name of a file in the same folder that differs in case alone; None where there is none among MOST_ENTRIES entries."""
    return _by_folded_name(path.parent).get(path.name.casefold())


@functools.lru_cache(64)
def _by_folded_name(folder: pathlib.Path) -> dict[str, str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name.casefold(): entry.name for entry in itertools.islice(entries, MOST_ENTRIES)}
    except OSError:  # the folder is missing too
        return {}
