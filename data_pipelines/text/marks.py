"""Marks in a turn's text: `<image>` and `<video>` stand where an image or a clip belongs.

Where such a word is meant as a word ("the tag <video> plays a clip"), the text holds it with a Unicode noncharacter behind its first
letter, so that it is no mark. `words` gives the text as it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from data_pipelines.schema import Turn

IMAGE_MARK = "<image>"
VIDEO_MARK = "<video>"
MARKS = (IMAGE_MARK, VIDEO_MARK)
NONCHARACTER = "\ufdd0"  # Unicode keeps it for a program's own use; rows that hold it are refused
_MARK = re.compile("|".join(MARKS))


def as_words(text: str) -> str:
    """The text with every mark turned into a word."""
    return _MARK.sub(lambda mark: f"<{NONCHARACTER}{mark[0][1:]}", text)


def words(text: str) -> str:
    """The text as it reads: words that look like marks are written out."""
    return text.replace(NONCHARACTER, "")


def marks_of(turns: Iterable[Turn]) -> list[str]:
    """IMAGE_MARK or VIDEO_MARK for each mark of a conversation, in order."""
    return [mark for turn in turns for mark in _MARK.findall(turn.text)]
