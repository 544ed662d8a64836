"""The scores that NEO-ov's authors published (docs/published_scores.json names the sources)."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping

FILE = pathlib.Path(__file__).parents[2] / "docs" / "published_scores.json"


@functools.cache
def published() -> Mapping[str, Mapping[str, float]]:
    """Returns the scores of each benchmark by model size, in per cent; none if the documentation is not beside the package."""
    if not FILE.exists():
        return {}
    found: Mapping[str, Mapping[str, float]] = json.loads(FILE.read_text(encoding="utf-8"))["scores"]
    return found


def published_line(benchmark: str) -> str:
    """Returns the published scores of a benchmark, to stand behind one's own; "" if there are none."""
    scores = published().get(benchmark)
    return "; published NEO-ov: " + ", ".join(f"{size} {score:.1f}" for size, score in scores.items()) if scores else ""
