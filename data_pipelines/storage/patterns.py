"""Expands patterns of shards (braces, globs, and lists of patterns) to the addresses of files."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from data_pipelines.storage.interface import StorageError, is_remote

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def expand(patterns: str | Sequence[str]) -> list[str]:
    """Returns the files that match patterns, in the order of the patterns; the matches of one glob are sorted.

    {000..127} counts, {a,b} lists, and * ? [] and ** match names. A local name that exists is never treated as a pattern, even if it contains
    such characters. A name without wildcards is returned without a check: opening it reports the error. Local names may begin with ~.

    Raises:
      StorageError: a glob matches nothing, or a file is named twice.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    files = [file for pattern in given for file in _expand_one(pattern)]
    twice = [file for file, count in Counter(files).items() if count > 1]
    if twice:
        raise StorageError("unreadable_file", f"{twice[0]} is named {files.count(twice[0])} times by {', '.join(given)}: name it once")
    return files


def _expand_one(pattern: str) -> Iterator[str]:
    if not is_remote(pattern):
        pattern = os.path.expanduser(pattern)
        if pattern.startswith("~"):
            raise StorageError("missing_file", f"cannot read {pattern}: that is no user's home folder; write the folder out")
        if os.path.lexists(pattern):
            yield pattern
            return
    for name in _braces(pattern):
        if not glob.has_magic(name):
            yield name
            continue
        found = _matching(name)
        if not found:
            raise StorageError("missing_file", f"{name} matches no file: check the pattern and the folder")
        yield from found


def _matching(pattern: str) -> list[str]:
    if is_remote(pattern):
        from data_pipelines.storage.objects import matching  # imports pyarrow

        return matching(pattern)
    return sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))


def _braces(pattern: str) -> Iterator[str]:
    """Yields every combination of the braces' choices, the last braces changing fastest. Braces without a comma or a range stay literal."""
    parts: list[list[str]] = []
    end = 0
    for braces in _BRACES.finditer(pattern):
        choices = _choices(braces[1])
        if choices is None:
            continue
        parts += [[pattern[end : braces.start()]], choices]
        end = braces.end()
    yield from map("".join, itertools.product(*parts, [pattern[end:]]))


def _choices(text: str) -> list[str] | None:
    if span := _RANGE.fullmatch(text):
        first, last = int(span[1]), int(span[2])
        padded = any(len(number.lstrip("-")) > 1 and number.lstrip("-")[0] == "0" for number in span.groups())
        width = max(map(len, span.groups())) if padded else 0
        return [f"{number:0{width}d}" for number in range(first, last + 1)] if first <= last else None
    return text.split(",") if "," in text else None
