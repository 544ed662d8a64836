"""Metrics of a benchmark: how right an answer is, from 0 to 1, given the answers that are accepted."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Sequence

from neo_jax.evaluation.vqa import vqa_accuracy

NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
RELAXED = 0.05  # relative error that "relaxed" accepts
ANLS_LEAST = 0.5  # similarity below which ANLS is 0


@dataclasses.dataclass(frozen=True)
class Options:
    """What some metrics need besides the answers.

    Attributes:
      tolerance: of "number": relative error that is accepted; of a target of 0: absolute.
      pattern: of "regex": what is found of the answer; its first group, if it has one.
    """

    tolerance: float = 0.0
    pattern: str = ""


Metric = Callable[[str, Sequence[str], Options], float]


def exact(prediction: str, answers: Sequence[str], options: Options) -> float:
    """Whether the answer is one of the accepted ones, apart from surrounding white space."""
    return float(prediction.strip() in {answer.strip() for answer in answers})


def caseless(prediction: str, answers: Sequence[str], options: Options) -> float:
    """The same, without regard to case, repeated blanks and a full stop at the end."""
    return float(_plain(prediction) in {_plain(answer) for answer in answers})


def relaxed(prediction: str, answers: Sequence[str], options: Options) -> float:
    """Numbers within 5% (12% is 0.12; a target of 0 exactly), other texts without regard to case: the relaxed accuracy of ChartQA."""

    def right(answer: str) -> bool:
        said, target = _value(prediction), _value(answer)
        if said is not None and target:
            return abs(said - target) <= RELAXED * abs(target)
        return prediction.strip().lower() == answer.strip().lower()

    return float(any(map(right, answers)))


def anls(prediction: str, answers: Sequence[str], options: Options) -> float:
    """1 less the edit distance over the longer length, of the nearest answer; 0 below 0.5: the ANLS of DocVQA."""

    def similarity(answer: str) -> float:
        one, other = (" ".join(text.lower().split()) for text in (prediction, answer))
        longer = max(len(prediction), len(answer))
        return 1 - edit_distance(one, other) / longer if longer else 1.0

    best = max(map(similarity, answers))
    return best if best >= ANLS_LEAST else 0.0


def letter(prediction: str, answers: Sequence[str], options: Options) -> float:
    """The letter of a choice: the last one after "answer", or the only capital that stands alone; a lone small letter and "(b)" too."""
    return float(_letter(prediction) is not None and _letter(prediction) in {_letter(answer) for answer in answers})


def number(prediction: str, answers: Sequence[str], options: Options) -> float:
    """The last number of the answer, within `tolerance` of an accepted one. Thousands may be divided by commas."""
    said = _last_number(prediction)

    def right(answer: str) -> bool:
        target = _last_number(answer)
        if said is None or target is None:
            return False
        return abs(said - target) <= options.tolerance * (abs(target) or 1.0)

    return float(any(map(right, answers)))


def regex(prediction: str, answers: Sequence[str], options: Options) -> float:
    """What the last match of `pattern` finds is an accepted answer."""
    found = list(re.finditer(options.pattern, prediction))
    if not found:
        return 0.0
    said = found[-1][1] if found[-1].re.groups else found[-1][0]
    return float((said or "").strip() in {answer.strip() for answer in answers})


def vqa(prediction: str, answers: Sequence[str], options: Options) -> float:
    """VQA accuracy: right in so far as at least three of the others who were asked gave this answer."""
    return vqa_accuracy(prediction, answers)


METRICS: dict[str, Metric] = {each.__name__: each for each in (exact, caseless, relaxed, anls, letter, number, regex, vqa)}


def edit_distance(one: str, other: str) -> int:
    """Returns the Levenshtein distance: insertions, deletions and substitutions of a character."""
    before = list(range(len(other) + 1))
    for row, character in enumerate(one, 1):
        now = [row]
        for column, another in enumerate(other, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (character != another)))
        before = now
    return before[-1]


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".")


def _value(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _last_number(text: str) -> float | None:
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _letter(text: str) -> str | None:
    text = text.strip()
    if re.fullmatch(r"[\[(]?[A-Za-z][\])]?[.:)]?", text):
        return next(character for character in text if character.isalpha()).upper()
    if said := re.findall(r"(?i:answer)\W+(?:(?i:is|would be)\W+)?\(?([A-Z])\b(?!['\u2019])", text):
        return str(said[-1])
    alone = re.findall(r"(?<![A-Za-z'\u2019])\(?([A-Z])\b(?!['\u2019])", text)
    # "I" and "A" are words too: they count where nothing else stands alone, or in brackets or before a mark.
    marked = re.findall(r"\(([A-Za-z])\)|(?<![A-Za-z'\u2019])([A-Z])[.:)](?:\s|$)", text)
    letters = {first.upper() or second for first, second in marked} or set(alone) - {"A", "I"} or set(alone)
    return letters.pop() if len(letters) == 1 else None
