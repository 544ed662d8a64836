"""Marks in a turn's text: `<image>` and `<video>` are the places of an image or a clip.

If these characters are ordinary text ("the tag <video> plays a clip"), they are stored with a Unicode noncharacter after the `<`, so that they
are not a mark. `words` restores the original text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from data_pipelines.schema import Turn

IMAGE_MARK = "<image>"
VIDEO_MARK = "<video>"
MARKS = (IMAGE_MARK, VIDEO_MARK)
NONCHARACTER = "\ufdd0"  # reserved by Unicode for a program's internal use; rows that contain it are refused
_MARK = re.compile("|".join(MARKS))


def as_words(text: str) -> str:
    """Returns the text with every mark escaped to ordinary text."""
    return _MARK.sub(lambda mark: f"<{NONCHARACTER}{mark[0][1:]}", text)


def words(text: str) -> str:
    """Returns the original text: reverses `as_words`."""
    return text.replace(NONCHARACTER, "")


def marks_of(turns: Iterable[Turn]) -> list[str]:
    """Returns IMAGE_MARK or VIDEO_MARK for each mark of a conversation, in order."""
    return [mark for turn in turns for mark in _MARK.findall(turn.text)]
