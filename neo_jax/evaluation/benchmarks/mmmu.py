"""Answers to Video-MMMU's questions, read by MMMU's rules."""

from __future__ import annotations

import re
from collections.abc import Mapping

from neo_jax.evaluation.benchmarks.answers import Said, as_text

NOT_FOUND = "No Answere Found"  # as the official kit spells it
FEW_WORDS = 5  # only in a longer answer are the texts of the options looked for
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?")


def chosen(said: Said, options: Mapping[str, str]) -> str:
    """Returns the letter of the option that an answer gives: the last one, written with "." or ":", else in brackets, else before a blank; else
    the option whose text occurs last. NOT_FOUND if there is none."""
    text = _after_answer(as_text(said))
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for forms in (("{}.", "{}:"), ("({})",), ("{} ",)):
        for form in forms:
            if letters := [letter for letter in options if form.format(letter) in text]:
                place = " {} " if form == "{} " else form
                return max(letters, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) > FEW_WORDS:
        low = text.lower()
        if letters := [letter for letter, option in options.items() if option.lower() in low]:
            return max(letters, key=lambda letter: low.rfind(options[letter].lower()))
    return NOT_FOUND


def open_answers(said: Said) -> list[str | float]:
    """Returns what an answer to an open question may mean: its key phrases, in small letters, and the numbers in them."""
    text = _after_answer(as_text(said)).strip().strip(".").lower()
    lines = [line for line in text.split("\n") if line.strip()]
    phrases = []
    for number, line in enumerate(lines):
        marks = (*_KEYS, "=") if number == len(lines) - 1 else _KEYS
        after = [line.rpartition(mark)[2].strip() for mark in marks if mark in line]
        if shortest := min(filter(None, after), key=len, default=""):
            phrases.append(shortest)
    found: list[str | float] = []
    for phrase in phrases or [text]:
        numbers = [round(float(each.replace(",", "")), 2) for each in _NUMBER.findall(phrase)]
        found += numbers if _NUMBER.fullmatch(phrase) else [*numbers, phrase]
    return list(dict.fromkeys(found))


def open_is_right(said: Said, key: str) -> bool:
    """Returns whether an answer to an open question means the key: the same number, or a phrase with its text."""
    target: str | float = round(float(key.replace(",", "")), 2) if _NUMBER.fullmatch(key.strip()) else key.strip().lower()
    if isinstance(target, float):
        return target in open_answers(said)
    return any(isinstance(each, str) and target in each for each in open_answers(said))


def _after_answer(text: str) -> str:
    return text.rpartition("Answer:")[2]
