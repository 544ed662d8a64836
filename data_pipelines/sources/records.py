"""LLaVA-style records, however they are stored: fields to turns and media names, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipelines.schema import ROLES, SampleError, Turn
from data_pipelines.text.chat import IMAGE_MARK, VIDEO_MARK

_ROLES = {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}


def parse_turns(conversations: object, key: str) -> tuple[Turn, ...]:
    """Turns of a list of {"from", "value"} and, on assistant turns, "is_input".

    Raises SampleError "bad_record" or "unknown_role".
    """
    if not isinstance(conversations, list) or not conversations:
        raise SampleError("bad_record", f'{key}: "conversations" must be a list of at least one turn with "from" and "value"')
    return tuple(_parse_turn(turn, f"{key}, turn {number}") for number, turn in enumerate(conversations))


def _parse_turn(turn: Any, where: str) -> Turn:
    if not isinstance(turn, dict) or not _is_text(turn.get("from")) or not _is_text(turn.get("value")):
        raise SampleError("bad_record", f'{where}: a turn is an object with the strings "from" and "value"')
    role = _ROLES.get(turn["from"])
    if role is None:
        raise SampleError("unknown_role", f'{where}: unknown role {turn["from"]!r} in "from"; roles are {", ".join(_ROLES)}')
    is_input = turn.get("is_input", False)
    if not isinstance(is_input, bool) or (is_input and role != "assistant"):
        raise SampleError("bad_record", f'{where}: "is_input" is true or false, and true on assistant turns only')
    return Turn(role, turn["value"], is_input)


def parse_media(record: Mapping[str, Any], key: str) -> tuple[tuple[str, ...], bool]:
    """Returns the media file names of a record ("image", "images" or "video") and whether they are a video.

    Raises SampleError "bad_record".
    """
    given = {field: record[field] for field in ("image", "images", "video") if record.get(field) is not None}
    if len(given) > 1:
        raise SampleError("bad_record", f"{key}: a record has one of {', '.join(given)}, not several")
    if not given:
        return (), False
    field, value = next(iter(given.items()))
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(_is_text(name) and name and "\0" not in name for name in names):
        raise SampleError("bad_record", f'{key}: "{field}" must be a file name or a list of file names')
    if field == "video" and len(names) != 1:
        raise SampleError("bad_record", f'{key}: "video" must be one file, not {len(names)}')
    return tuple(names), field == "video"


def parse_family(record: Mapping[str, Any], key: str) -> str:
    family = record.get("family")
    if family is not None and not _is_text(family):
        raise SampleError("bad_record", f'{key}: "family" must be a string')
    return family or ""


def _is_text(value: object) -> bool:
    """A string of whole characters: JSON can write half of a surrogate pair, which no file or tokenizer can."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def check_marks(turns: tuple[Turn, ...], files: int, video: bool, key: str) -> None:
    """Raises SampleError "image_marks" or "video_marks" unless there is one mark for each file."""
    for mark, expected, reason in (
        (IMAGE_MARK, 0 if video else files, "image_marks"),
        (VIDEO_MARK, files if video else 0, "video_marks"),
    ):
        marks = sum(turn.text.count(mark) for turn in turns)
        if marks != expected:
            raise SampleError(reason, f"{key}: {marks} {mark} marks for {expected} files; write one mark where each file belongs")
