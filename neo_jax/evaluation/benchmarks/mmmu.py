"""Answers to Video-MMMU's questions, read by MMMU's rules."""

from __future__ import annotations

import re
from collections.abc import Mapping

from neo_jax.evaluation.benchmarks.answers import Said, as_text

NOT_FOUND = "No Answere Found"  # as the official kit spells it
FEW_WORDS = 5  # only in a longer answer are the texts of the options looked for
_KEYS = (
    *(
        "could be ",
        "so ",
        "is ",
        "thus ",
        "therefore ",
        "final ",
        "answer ",
        "result ",
        "are ",
        "in total ",
        "total ",
        "identify ",
        "recognize ",
    ),
    *("calculated as ", "counted as ", "measured as ", "observed as ", "concluded as ", "found to be ", "equals ", "determined to be "),
    *("number of ", "value is ", "adds up to ", "have ", "has "),
)
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
_TRIVIAL = set(":,.!?;'")


def is_empty(said: Said) -> bool:
    """Returns whether nothing follows the last "Answer:"."""
    return not _after_answer(as_text(said))


def chosen(said: Said, options: Mapping[str, str]) -> str:
    """Returns the letter of the option that an answer gives: the last one, written with "." or ":", else in brackets, else before a blank; else
    the option whose text occurs last. NOT_FOUND if there is none."""
    text = _after_answer(as_text(said))
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for forms in (("{}.", "{}:"), ("({})",), ("{} ",)):
        letters = [letter for form in forms for letter in options if form.format(letter) in text]
        if letters:
            form = next(form for form in forms if any(form.format(letter) in text for letter in letters))
            place = " {} " if form == "{} " else form
            return max(letters, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) > FEW_WORDS:
        low = text.lower()
        if letters := [letter for letter, option in options.items() if option.lower() in low]:
            return max(letters, key=lambda letter: low.rfind(options[letter].lower()))
    return NOT_FOUND


def open_answers(said: Said) -> list[str | float]:
    """Returns what an answer to an open question may mean: its key phrases, in small letters, and the numbers in them."""
    text = _after_answer(as_text(said)).strip(".").lower()
    lines = text.split("\n")
    phrases = []
    for number, line in enumerate(lines):
        marks = (*_KEYS, "=") if number == len(lines) - 1 else _KEYS
        after = [line.rpartition(mark)[2].strip() for mark in marks if mark in line]
        shortest = ""
        for each in after:
            if not shortest or len(each) < len(shortest):
                shortest = each
        if shortest and shortest not in _TRIVIAL:
            phrases.append(shortest)
    phrases = phrases or [text]
    numbers = [number for phrase in phrases for pattern in _NUMBERS for number in pattern.findall(phrase)]
    return list(dict.fromkeys(meaning for each in (*numbers, *phrases) for meaning in _meanings(each)))


def _meanings(text: str) -> list[str | float]:
    """Returns a number with two decimals; a text in small letters; of a single character, that beside a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        return [f" {text.lower()}", f"{text.lower()} "] if len(text) == 1 else [text.lower()]


def open_is_right(said: Said, key: str) -> bool:
    """Returns whether an answer to an open question means the key: the same number, or a phrase with its text."""
    targets = _meanings(key)
    return any(each in targets or any(isinstance(target, str) and target in str(each) for target in targets) for each in open_answers(said))


def _after_answer(text: str) -> str:
    return text.rpartition("Answer:")[2].strip()
