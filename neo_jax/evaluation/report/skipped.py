"""Samples that a run did not use, from the logs that its processes keep in the run directory."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Collection, Mapping

from neo_jax.evaluation.report.data import Skipped

LOGS = {"training": "skipped", "held-out": "skipped_heldout"}  # NAME.jsonl of process 0, NAME.PROCESS.jsonl of the others
BY_PHASE = ("too_long", "no_frames")  # reasons that hold for one phase, which the message names


def read_skipped(directory: pathlib.Path, phases: Collection[str], sizes: Mapping[tuple[str, str], int]) -> tuple[list[Skipped], list[str]]:
    """Counts what the logs name, by part, source, reason and phase, most frequent first; and a sentence for each damaged line.

    A sample that several processes name for the same reason counts once.

    Args:
      phases: names of the curriculum's phases.
      sizes: samples of each source, by part ("training", "held-out") and name.
    """
    counts: dict[tuple[str, str, str, str], int] = {}
    examples: dict[tuple[str, str, str, str], str] = {}
    problems: list[str] = []
    for part, name in LOGS.items():
        seen: set[tuple[str, str, str, str]] = set()
        for path in sorted(path for path in directory.glob(f"{name}*.jsonl") if re.fullmatch(rf"{name}(\.\d+)?\.jsonl", path.name)):
            for number, text in enumerate(path.read_bytes().split(b"\n"), 1):
                if not text.strip():
                    continue
                try:
                    entry = json.loads(text)
                    source, key, reason, message = (str(entry[field]) for field in ("source", "key", "reason", "message"))
                except (ValueError, KeyError, TypeError, RecursionError):
                    problems.append(f"{path}, line {number}: not a skipped sample (source, key, reason, message); it is not counted")
                    continue
                phase = _phase(message, phases) if reason in BY_PHASE else ""
                if (source, key, reason, phase) not in seen:
                    seen.add((source, key, reason, phase))
                    group = (part, source, reason, phase)
                    counts[group] = counts.get(group, 0) + 1
                    examples.setdefault(group, message)
    skipped = [
        Skipped(part, source, reason, count, _share(count, sizes.get((part, source))), phase, examples[part, source, reason, phase])
        for (part, source, reason, phase), count in sorted(counts.items(), key=lambda pair: -pair[1])
    ]
    return sorted(skipped, key=lambda each: list(LOGS).index(each.part)), problems


def _phase(message: str, phases: Collection[str]) -> str:
    return next((phase for phase in phases if re.search(rf"\bphase '?{re.escape(phase)}(?!\w)", message)), "")


def _share(count: int, size: int | None) -> float | None:
    return min(1.0, count / size) if size else None
