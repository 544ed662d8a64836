"""Decides which marks of a row stand for its files, and which are words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable

from data_pipelines.schema import SampleError, Turn
from data_pipelines.text.marks import IMAGE_MARK, MARKS, NONCHARACTER, VIDEO_MARK, as_words

# A mark at the beginning or the end of a line of a question stands for media; within a sentence it is a word.
_PLACED_VIDEO = re.compile(rf"^\s*{VIDEO_MARK}|{VIDEO_MARK}\s*$", re.MULTILINE)
_ESCAPED = re.compile(r"\\<(image|video)>")
# Marks of other training codes. They are refused, since they would be read as words. Some of them are words in answers (tags of HTML and JSX).
_OTHER_MARKS = re.compile(
    r"<\|(?:image|img|video|audio|vision|media)\w*\|>|<(?:image|img|video|audio|frame)[ _-]?\d+>"
    r"|<(?:image|img|video|audio)_(?:placeholder|pad|token|soft_token|start|end)>|<(?:Image|Video|Audio)Here>"
)
_OTHER_MARKS_OF_QUESTIONS = re.compile(r"<(?!image>|video>)(?i:image|video)>|^\s*<audio>|<audio>\s*$", re.MULTILINE)
_REASONS = {IMAGE_MARK: "image_marks", VIDEO_MARK: "video_marks"}


def place_marks(turns: tuple[Turn, ...], images: int, clips: int, key: str) -> tuple[Turn, ...]:
    r"""Returns the turns with one mark for each file; all other marks are turned into words.

    Marks in questions must match the files. Marks in answers are words, unless the marks match the files only if those are counted too.
    `\<image>` is the word `<image>`. One `<image>` may stand for all pictures, or for the one clip of a row without pictures. In a row without
    files, `<video>` within a sentence is also a word.

    Raises SampleError "unknown_mark" for a mark of another training code, "image_marks" or "video_marks" if marks and files do not match.
    """
    if not clips and _has_only_marks(turns, images):
        return turns  # most rows
    for turn in turns:
        _refuse_other_marks(turn, key)
    escaped = tuple(map(_with_escapes, turns))
    questions = _only(escaped, lambda turn: turn.role != "assistant")
    for candidate in (questions, escaped):
        if (placed := _matched(candidate, images, clips)) is not None:
            return placed
    if not images and not clips and not _count(questions, IMAGE_MARK) and not any(_PLACED_VIDEO.search(turn.text) for turn in questions):
        return _only(questions, lambda turn: False)
    raise _mismatch(questions if any(_count(questions, mark) for mark in MARKS) else escaped, images, clips, key)


def _has_only_marks(turns: tuple[Turn, ...], images: int) -> bool:
    """Returns whether the turns have a mark for each picture, in questions, and no other `<`."""
    marks = 0
    for turn in turns:
        if found := turn.text.count("<"):
            if turn.role == "assistant" or "\\<" in turn.text or turn.text.count(IMAGE_MARK) != found:
                return False
            marks += found
    return marks == images


def _matched(turns: tuple[Turn, ...], images: int, clips: int) -> tuple[Turn, ...] | None:
    """Returns the turns with one mark for each file; None if their marks do not match the files."""
    marks = {mark: _count(turns, mark) for mark in MARKS}
    if marks == {IMAGE_MARK: images, VIDEO_MARK: clips}:
        return turns
    if clips == 1 and not images and marks == {IMAGE_MARK: 1, VIDEO_MARK: 0}:
        return _replaced(turns, VIDEO_MARK)
    if images > 1 and marks == {IMAGE_MARK: 1, VIDEO_MARK: clips}:
        return _replaced(turns, "\n".join([IMAGE_MARK] * images))
    return None


def _mismatch(turns: tuple[Turn, ...], images: int, clips: int, key: str) -> SampleError:
    """Returns the error for turns whose marks do not match their files: about image marks if these do not match, else about video marks."""
    mark, expected, kind = (IMAGE_MARK, images, "image") if _count(turns, IMAGE_MARK) != images else (VIDEO_MARK, clips, "video")
    advice = f"write one mark where each file belongs, or where the word is meant \\{mark}"
    if not expected:
        advice = f'name the file in "{kind}", or write \\{mark} where the word is meant'
    return SampleError(_REASONS[mark], f"{key}: {_count(turns, mark)} {mark} marks for {expected} files; {advice}")


def _refuse_other_marks(turn: Turn, key: str) -> None:
    if "<" not in turn.text:
        return
    other = _OTHER_MARKS.search(turn.text) or (turn.role != "assistant" and _OTHER_MARKS_OF_QUESTIONS.search(turn.text))
    if other:
        mark = other[0].strip()
        raise SampleError(
            "unknown_mark",
            f"{key}: the mark {mark} is not read; did you mean {IMAGE_MARK} or {VIDEO_MARK}? Where the word is meant write < {mark[1:-1]} >",
        )


def _with_escapes(turn: Turn) -> Turn:
    r"""Turns `\<image>` in a question into a word. In answers a backslash is kept, since marks there are words already."""
    if turn.role == "assistant" or "\\<" not in turn.text:
        return turn
    return dataclasses.replace(turn, text=_ESCAPED.sub(rf"<{NONCHARACTER}\1>", turn.text))


def _only(turns: Iterable[Turn], holds_marks: Callable[[Turn], bool]) -> tuple[Turn, ...]:
    """Returns the turns, with marks turned into words except in turns for which `holds_marks` returns True."""
    return tuple(
        turn if holds_marks(turn) or "<" not in turn.text else dataclasses.replace(turn, text=as_words(turn.text)) for turn in turns
    )


def _replaced(turns: tuple[Turn, ...], by: str) -> tuple[Turn, ...]:
    return tuple(dataclasses.replace(turn, text=turn.text.replace(IMAGE_MARK, by)) for turn in turns)


def _count(turns: Iterable[Turn], mark: str) -> int:
    return sum(turn.text.count(mark) for turn in turns)
