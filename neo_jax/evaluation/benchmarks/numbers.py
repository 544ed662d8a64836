"""Numbers in answers, and how near they are: mean relative accuracy (VSI-Bench), and camera moves (SPAR-Bench)."""

from __future__ import annotations

import ast
import re

import numpy as np

from neo_jax.evaluation.benchmarks.answers import Said, as_text
from neo_jax.evaluation.benchmarks.letters import after_thinking

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_WORDS = {
    word: number
    for number, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())  # noqa: SIM905
}
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)
_DIGITS = r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(_DIGITS)
_ANSWER = re.compile(rf"<\s*answer\b[^>]*>\s*({_DIGITS})(?:[^\d<][^<]*)?<\s*/\s*answer\s*>", re.IGNORECASE)
# The axes of a camera's move, each with its opposite.
AXES = {
    "move_right": "move_left",
    "move_up": "move_down",
    "move_forward": "move_backward",
    "rotate_right": "rotate_left",
    "rotate_up": "rotate_down",
}


def number_of(said: Said) -> float | None:
    """Returns the number of an answer: of a list's first element; a number word up to twelve; what stands in <answer>; the first number behind
    the thoughts; the first number. None if there is none."""
    text = as_text(said)
    if text.strip().startswith("[") and text.strip().endswith("]"):
        try:
            values = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        text = str(values[0]) if isinstance(values, list) and values else text
    elif word := _WORD.search(text):
        return float(_WORDS[word[1].lower()])
    if tagged := _ANSWER.search(text):
        return float(tagged[1])
    found = _NUMBER.search(after_thinking(text)) or _NUMBER.search(text)
    return float(found[0]) if found else None


def relative_accuracy(number: float | None, target: float) -> float:
    """Returns the share of the thresholds 0.5, 0.55, ..., 0.95 for which the relative error is at most 1 - threshold; of a target 0: the error."""
    if number is None:
        return 0.0
    error = abs(number - target) if target == 0 else abs((number - target) / target)
    return float(np.mean(error <= 1 - THRESHOLDS))


def moves_of(text: str) -> dict[str, float]:
    """Returns how far a camera moves along each axis, 0 where nothing is said: `move_right:0.3,rotate_up:5`."""
    said: dict[str, float] = {}
    for item in text.split(","):
        name, mark, number = item.partition(":")
        try:
            if mark:
                said[name.strip()] = float(number)
        except ValueError:
            continue  # what is no number says nothing
    return {axis: said.get(axis, 0.0) - said.get(opposite, 0.0) for axis, opposite in AXES.items()}


def moves_accuracy(said: Said, key: str) -> float:
    """Returns the mean of relative_accuracy over the five axes."""
    moves, targets = moves_of(as_text(said)), moves_of(key)
    return float(np.mean([relative_accuracy(moves[axis], targets[axis]) for axis in AXES]))
