"""The letter that an answer to a spatial question gives (EASI's rules, in their order)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from neo_jax.evaluation.benchmarks.answers import Said, as_text

TAIL = 800  # characters at the end of an answer that are searched for the letter before a closing tag
LINES = 6  # lines at the end that are searched
_INVISIBLE = re.compile("[\u200b\u200c\u200d\u2060\ufeff]")
_IN_ANSWER = re.compile(r"<answer>\s*([A-J]).*?</answer>", re.IGNORECASE | re.DOTALL)
_CLOSED = r"(?<![A-Za-z])[(\[]?([A-Fa-f])[)\]]?\s*</{}>"
_ALONE = re.compile(r"[\s*_`~#>(\[{]*([A-Fa-f])[\s*_`~)\]}]*")
_OPENING = re.compile(r"\s*([A-Fa-f])[.:)\]-]\s")
_FREE = re.compile(r"(?<![A-Za-z])([A-F])(?=$|_|[^\w>/])")
_OPTION = re.compile(r"\s*option\s+[A-Za-z]\s*:", re.IGNORECASE)
_SAID = re.compile(
    r"(?:final answer|the answer is|correct answer(?: is)?|answer(?: is)?|\u6700\u7ec8\u7b54\u6848|\u6b63\u786e\u7b54\u6848|\u7b54\u6848)"
    r"(?:\u662f|\u4e3a)?\s*[:\uff1a=]?\s*[(\[{]?\s*([A-F])(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SINGLE = re.compile(r"(?<![A-Za-z])([A-F])(?![A-Za-z])")


def letter_of(said: Said) -> str | None:
    """Returns the capital letter of the option that an answer gives, or None if no rule finds one."""
    text = _INVISIBLE.sub("", as_text(said)).strip()
    return next((letter.upper() for letter in _found(text) if letter), None)


def _found(text: str) -> Iterator[str | None]:
    tail = text[-TAIL:]
    yield _group(_IN_ANSWER.search(text))
    for tag in ("answer", "think"):
        yield _group(re.search(_CLOSED.format(tag), tail))
    for tag in ("</think>", "<think>"):
        if tag in text:
            yield _in_lines(text.rpartition(tag)[2])
            break
    else:
        yield _in_lines(text)
    yield _in_lines(tail)
    yield _group(_SAID.search(text))
    single = {match[1] for match in _SINGLE.finditer("\n".join(line for line in text.split("\n") if not _OPTION.match(line)))}
    yield single.pop() if len(single) == 1 else None


def _in_lines(text: str) -> str | None:
    for line in reversed(text.strip().split("\n")[-LINES:]):
        if _OPTION.match(line):
            continue
        if match := _ALONE.fullmatch(line) or _OPENING.match(line):
            return match[1]
        free = set(_FREE.findall(line))
        if len(free) == 1:
            return str(free.pop())
    return None


def _group(match: re.Match[str] | None) -> str | None:
    return match[1] if match else None
