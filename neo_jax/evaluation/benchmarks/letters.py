"""The letter that an answer to a spatial question gives (EASI's rules, in their order)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from neo_jax.evaluation.benchmarks.answers import Said, as_text

TAIL = 800  # characters at the end of an answer that are searched for a letter before a closing tag
LINES = 6  # lines at the end that are searched
_FULL_OPEN, _FULL_CLOSED = "\uff08\u3010", "\uff09\u3011"  # full-width brackets
_OPEN, _CLOSED = rf"[(\[{{{_FULL_OPEN}]", rf"[)\]}}{_FULL_CLOSED}]"
_IN_BRACKETS = rf"(?<![A-Za-z]){_OPEN}?\s*([A-F])\s*{_CLOSED}?"
_INVISIBLE = re.compile("[\u200b\u200c\u200d\ufeff]")
_ANSWER = re.compile(r"<\s*answer\b[^>]*>\s*([A-J]).*?<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL)
_BEFORE = tuple(re.compile(rf"{_IN_BRACKETS}\s*</\s*{tag}\s*>", re.IGNORECASE) for tag in ("answer", "think"))
_THINKING = tuple(re.compile(rf"<{slash}\s*think\s*>", re.IGNORECASE) for slash in ("/", r"\s*"))
_ROUND = rf"[*_`()\[\]{_FULL_OPEN}{_FULL_CLOSED}]*"
_ALONE = re.compile(rf"{_ROUND.replace('*_', '*_>', 1)}\s*([A-Fa-f])\s*{_ROUND}")
_LABEL = re.compile(r"([A-F])\s*[.\uff0e:\uff1a)\]\u3011\u3001-]\s+", re.IGNORECASE)
_MARKS = ".,:;!?)\\]\u3011\u300b\u300d\u300f\uff0c\u3002\uff1b\u3001\uff1a\uff09"
_FREE = re.compile(rf"(?<![A-Za-z])[*_`{_FULL_OPEN[0]}\[{{(]*\s*([A-F])\s*[*_`{_FULL_CLOSED[0]}\]}})]*(?=$|[\s{_MARKS}])")
_OPTION = re.compile(r"[*_>\-\s]*(?:option|\u9009\u9879)\s+[A-J]\s*[:\uff1a]", re.IGNORECASE)
_PHRASES = "|".join(
    (
        *(r"final\s*answer", r"the\s*answer\s*is", r"answer(?:\s*is)?", r"correct\s*answer"),
        *(
            "\u7b54\u6848",
            "\u6700\u7ec8\u7b54\u6848",
            "\u7ed3\u8bba",
            "\u6240\u4ee5",
            "\u56e0\u6b64",
        ),  # answer, final answer, conclusion, so, hence
        *("\u6211\u9009(?:\u62e9)?", "\u9009\u62e9", "\u9009"),  # I choose, choose, select
    )
)
_SAID = re.compile(rf"(?:{_PHRASES})\s*[:\uff1a>\uff1d=]?\s*{_OPEN}?\s*([A-F])\s*{_CLOSED}?(?:\b|[.)\u3001\u3002])", re.IGNORECASE)
_SINGLE = re.compile(rf"{_IN_BRACKETS}(?![A-Za-z])")


def letter_of(said: Said) -> str | None:
    """Returns the capital letter of the option that an answer gives, or None if no rule finds one."""
    text = _INVISIBLE.sub("", as_text(said).strip())
    return next((letter.upper() for letter in _found(text) if letter), None)


def after_thinking(text: str) -> str:
    """Returns what follows the last `</think>`; without one, the last `<think>`; without that, the text."""
    for tag in _THINKING:
        if places := list(tag.finditer(text)):
            return text[places[-1].end() :].strip()
    return text


def _found(text: str) -> Iterator[str | None]:
    tail = text[-TAIL:]
    yield _group(_ANSWER.search(text))
    for before in _BEFORE:
        yield _group(before.search(tail))
    yield _in_lines(after_thinking(text))
    yield _in_lines(tail)
    yield _group(_SAID.search(text))
    single = set(_SINGLE.findall("\n".join(line for line in text.splitlines() if not _OPTION.match(line))))
    yield single.pop() if len(single) == 1 else None


def _in_lines(text: str) -> str | None:
    for line in map(str.strip, reversed(text.splitlines()[-LINES:])):
        if not line or _OPTION.match(line):
            continue
        if match := _ALONE.fullmatch(line) or _LABEL.match(line):
            return match[1]
        free = set(_FREE.findall(line))
        if len(free) == 1:
            return str(free.pop())
    return None


def _group(match: re.Match[str] | None) -> str | None:
    return match[1] if match else None
