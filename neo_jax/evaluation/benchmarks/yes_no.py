"""Answers to yes/no questions (HallusionBench, POPE)."""

from __future__ import annotations

from collections.abc import Sequence

from neo_jax.evaluation.benchmarks.answers import Said, as_text
from neo_jax.evaluation.vqa import without_punctuation

UNKNOWN = "Unknown"


def yes_or_no(said: Said) -> str:
    """Returns "Yes" or "No" if that word alone of the two occurs in an answer, else "Unknown"."""
    words = without_punctuation(as_text(said)).lower().split()
    found = [word for word in ("yes", "no") if word in words]
    return found[0].capitalize() if len(found) == 1 else UNKNOWN


def f1_scores(extracted: Sequence[str], keys: Sequence[str]) -> dict[str, float]:
    """Returns F1 ("Overall"), accuracy, precision and recall in per cent, where "Yes" is what is to be found."""
    pairs = list(zip(extracted, keys, strict=True))
    found = sum(said == key == "Yes" for said, key in pairs)
    said_yes, are_yes = sum(said == "Yes" for said, _ in pairs), sum(key == "Yes" for _, key in pairs)
    precision, recall = found / said_yes if said_yes else 0.0, found / are_yes if are_yes else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    right = sum(said == key for said, key in pairs) / len(pairs)
    return {"Overall": 100 * f1, "acc": 100 * right, "precision": 100 * precision, "recall": 100 * recall}
