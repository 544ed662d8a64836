"""Numbers in answers, and how near they are: mean relative accuracy (VSI-Bench), and camera moves (SPAR-Bench)."""

from __future__ import annotations

import re

import numpy as np

from neo_jax.evaluation.benchmarks.answers import Said, as_text

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_TO_TWENTY = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
"""
_WORDS = {word: number for number, word in enumerate(_TO_TWENTY.split())}
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
# The axes of a camera's move, each with its opposite.
AXES = {
    "move_right": "move_left",
    "move_up": "move_down",
    "move_forward": "move_backward",
    "rotate_right": "rotate_left",
    "rotate_up": "rotate_down",
}
_MOVE = re.compile(r"(move|rotate)_(right|left|up|down|forward|backward)\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+))")


def number_of(said: Said) -> float | None:
    """Returns the first number of an answer, of what follows its last `</think>`: a number word, or digits if there is none."""
    text = as_text(said).rpartition("</think>")[2]
    if word := _WORD.search(text):
        return float(_WORDS[word[1].lower()])
    return float(digits[0]) if (digits := _NUMBER.search(text)) else None


def relative_accuracy(number: float | None, target: float) -> float:
    """Returns the share of the thresholds 0.5, 0.55, ..., 0.95 for which the relative error is at most 1 - threshold; of a target 0: the error."""
    if number is None:
        return 0.0
    error = abs(number - target) / (abs(target) if target else 1.0)
    return float(np.mean(error <= 1 - THRESHOLDS))


def moves_of(text: str) -> dict[str, float]:
    """Returns how far a camera moves along each axis, 0 where nothing is said."""
    opposite = {other: axis for axis, other in AXES.items()}
    moves = dict.fromkeys(AXES, 0.0)
    for kind, direction, number in _MOVE.findall(text):
        name = f"{kind}_{direction}"
        if axis := opposite.get(name):
            moves[axis] = -float(number)
        elif name in moves:
            moves[name] = float(number)
    return moves


def moves_accuracy(said: Said, key: str) -> float:
    """Returns the mean of relative_accuracy over the five axes."""
    moves, targets = moves_of(as_text(said)), moves_of(key)
    return float(np.mean([relative_accuracy(moves[axis], targets[axis]) for axis in AXES]))
