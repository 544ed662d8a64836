"""Reads the logs in the run directory of samples that a run did not use."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping

from neo_jax.evaluation.report.data import Skipped
from neo_jax.evaluation.report.figures import cut

LOGS = {"training": "skipped", "held-out": "skipped_heldout"}  # NAME.jsonl of process 0, NAME.PROCESS.jsonl of the others
MESSAGE = 300  # largest number of characters of an example
BY_PHASE = ("too_long", "no_frames")  # reasons that concern one phase, named in the message


def read_skipped(directory: pathlib.Path, phases: Collection[str], sizes: Mapping[tuple[str, str], int]) -> tuple[list[Skipped], list[str]]:
    """Counts the samples in the logs by part, source, reason and phase, most frequent first. Also returns a sentence for each damaged line.

    A sample that several processes name for the same reason counts once.

    Args:
      phases: names of the curriculum's phases.
      sizes: number of samples of each source, by part ("training", "held-out") and name.
    """
    counts: dict[tuple[str, str, str, str], int] = {}
    examples: dict[tuple[str, str, str, str], str] = {}
    problems: list[str] = []
    for part, name in LOGS.items():
        seen: set[int] = set()  # hashes: a log may name millions
        for path in sorted(path for path in directory.glob(f"{name}*.jsonl") if re.fullmatch(rf"{name}(\.\d+)?\.jsonl", path.name)):
            for number, text in _lines(path, problems):
                try:
                    entry = json.loads(text)
                    source, key, reason, message = (str(entry[field]) for field in ("source", "key", "reason", "message"))
                except (ValueError, KeyError, TypeError, RecursionError):
                    problems.append(f"{path}, line {number}: not a skipped sample (source, key, reason, message); it is not counted")
                    continue
                phase = _phase(message, phases) if reason in BY_PHASE else ""
                if (sample := hash((source, key, reason, phase))) not in seen:
                    seen.add(sample)
                    group = (part, source, reason, phase)
                    counts[group] = counts.get(group, 0) + 1
                    examples.setdefault(group, cut(message, MESSAGE))
    skipped = [
        Skipped(part, source, reason, count, _share(count, sizes.get((part, source))), phase, examples[part, source, reason, phase])
        for (part, source, reason, phase), count in sorted(counts.items(), key=lambda pair: -pair[1])
    ]
    return sorted(skipped, key=lambda each: list(LOGS).index(each.part)), problems


def _lines(path: pathlib.Path, problems: list[str]) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that are not empty, with their numbers from 1."""
    try:
        with path.open("rb") as file:
            yield from ((number, text) for number, text in enumerate(file, 1) if text.strip())
    except OSError as error:
        problems.append(f"{path} cannot be read to its end ({error.strerror}): the samples that it names there are not counted")


def _phase(message: str, phases: Collection[str]) -> str:
    return next((phase for phase in phases if re.search(rf"\bphase '?{re.escape(phase)}(?!\w)", message)), "")


def _share(count: int, size: int | None) -> float | None:
    return min(1.0, count / size) if size else None
