"""LLaVA-style records, however they are stored: fields to turns and media, checked."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from data_pipelines.schema import ROLES, SampleError, Turn
from data_pipelines.sources.keys import ROW_KEYS, TURN_KEYS, Keys, is_empty, is_still
from data_pipelines.text.chat import IMAGE_MARK, VIDEO_MARK

VERSION = 2  # of how rows are read: raise it when the same row may give another sample

_ROLES = {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}
_TOOL_ROLES = ("tool", "function", "function_call", "function_response", "tool_call", "tool_response", "observation", "ipython")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BASE64_URL = re.compile(r"data:[^,]*;base64,")
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_MARKS = {IMAGE_MARK: "image_marks", VIDEO_MARK: "video_marks"}
# A mark where media stand, at the beginning or the end of a line of a question; within a sentence it is a word.
_PLACED_VIDEO = re.compile(rf"^\s*{VIDEO_MARK}|{VIDEO_MARK}\s*$", re.MULTILINE)
# Marks of other kits: left alone, they would be read as words. Some are words in answers (tags of HTML and JSX).
_OTHER_MARKS = re.compile(
    r"<\|(?:image|img|video|audio|vision|media)\w*\|>|<(?:image|img|video|audio|frame)[ _-]?\d+>"
    r"|<(?:image|img|video|audio)_(?:placeholder|pad|token|soft_token|start|end)>|<(?:Image|Video|Audio)Here>"
)
_OTHER_MARKS_OF_QUESTIONS = re.compile(r"<(?!image>|video>)(?i:image|video)>|^\s*<audio>|<audio>\s*$", re.MULTILINE)


class MediaFile(NamedTuple):
    """A picture or clip of a record: its name, and its encoded bytes where the record holds them itself."""

    name: str
    data: bytes | None = None


class Record(NamedTuple):
    """What a record says: turns, media in the order of their marks, whether they are one video, the kind of question ("" if not given)."""

    turns: tuple[Turn, ...]
    media: tuple[MediaFile, ...]
    is_video: bool
    family: str


def parse_record(record: object, key: str, keys: Keys) -> Record:
    """A row's object: conversations (from, value) or messages (role, content), system, image, images or video, family.

    Raises SampleError "bad_record", "bad_text", "bad_media", "web_address", "unknown_key", "unknown_role", "unknown_mark",
    "empty_answer", "image_marks", "video_marks".
    """
    if not isinstance(record, dict):
        raise SampleError("bad_record", f'{key}: a record is an object with "conversations", not {type(record).__name__}')
    fields = keys.read(record, ROW_KEYS)
    media, is_video = _parse_media(fields, key)
    keys.check_others(record, ROW_KEYS, key)
    family = _text(fields.get("family", ""), '"family"', key)
    turns = _with_system(fields, parse_turns(*_conversation(fields, record, key), keys), key)
    return Record(place_marks(turns, len(media), is_video, key), media, is_video, family)


def parse_turns(conversations: object, key: str, keys: Keys) -> tuple[Turn, ...]:
    """Turns of a list of {"from", "value"} or {"role", "content"}; on assistant turns also "is_input", "loss" or "weight".

    Raises SampleError "bad_record", "bad_text", "unknown_key", "unknown_role", "empty_answer".
    """
    if not isinstance(conversations, list) or not conversations:
        raise SampleError("bad_record", f'{key}: "conversations" must be a list of at least one turn with "from" and "value"')
    return tuple(_parse_turn(turn, f"{key}, turn {number}", keys) for number, turn in enumerate(conversations))


def _conversation(fields: Mapping[str, Any], record: Mapping[str, Any], key: str) -> tuple[object, str]:
    given = [field for field in ("conversations", "messages") if field in fields]
    if len(given) > 1:
        raise SampleError("bad_record", f'{key}: the row has "conversations" and "messages": keep one, or list the other in `ignore`')
    if given:
        return fields[given[0]], key
    if "conversations" in record or "messages" in record:
        return None, key
    raise SampleError(
        "bad_record",
        f'{key}: "conversations" must be a list of at least one turn, and the row has none; its keys are {", ".join(map(repr, record))}: '
        'write question and answer as [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]',
    )


def _with_system(fields: Mapping[str, Any], turns: tuple[Turn, ...], key: str) -> tuple[Turn, ...]:
    """The turns after the system prompt that stands beside them."""
    if "system" not in fields:
        return turns
    if any(turn.role == "system" for turn in turns):
        raise SampleError("bad_record", f'{key}: the row has a key "system" and a system turn: keep one of them')
    return (Turn("system", _text(fields["system"], '"system"', key)), *turns)


def _parse_turn(turn: Any, where: str, keys: Keys) -> Turn:
    if not isinstance(turn, dict):
        raise SampleError("bad_record", f'{where}: a turn is an object with the strings "from" and "value", or "role" and "content"')
    fields = keys.read(turn, TURN_KEYS)
    keys.check_others(turn, TURN_KEYS, where)
    name, name_key = _either(turn, "from", "role", where)
    text, text_key = _either(turn, "value", "content", where)
    role = _parse_role(_text(name, f'"{name_key}"', where), name_key, where)
    if isinstance(text, list):
        raise SampleError(
            "bad_record",
            f'{where}: "{text_key}" is a list of parts, which is not read: write one string with {IMAGE_MARK} or {VIDEO_MARK} where a file '
            'belongs, and name the files in "images" or "video" of the row',
        )
    text = _text(text, f'"{text_key}"', where)
    is_input = _parse_is_input(fields, role, where)
    if role == "assistant" and not is_input and not text.replace(IMAGE_MARK, "").strip():
        raise SampleError(
            "empty_answer", f'{where}: the answer {text!r} has no words, so it teaches to say nothing: write one, or set "is_input" to true'
        )
    return Turn(role, text, is_input)


def _either(turn: Mapping[str, Any], key: str, other: str, where: str) -> tuple[object, str]:
    """The value of one of two spellings of a key, and the spelling."""
    given = [spelling for spelling in (key, other) if turn.get(spelling) is not None]
    if len(given) != 1:
        says = "both" if given else "neither of them"
        raise SampleError(
            "bad_record",
            f'{where}: a turn is an object with the strings "from" and "value", or "role" and "content": of "{key}" and "{other}" it has {says}',
        )
    return turn[given[0]], given[0]


def _parse_role(name: str, name_key: str, where: str) -> str:
    if role := _ROLES.get(name):
        return role
    advice = f"roles are {', '.join(_ROLES)}"
    if name in _TOOL_ROLES:
        advice += "; tool calls are not read: write the call as an assistant's turn and what the tool says as a user's"
    raise SampleError("unknown_role", f'{where}: unknown role {name!r} in "{name_key}"; {advice}')


def _parse_is_input(fields: Mapping[str, Any], role: str, where: str) -> bool:
    """Whether a turn is context only; "loss" and "weight" say the opposite."""
    is_input = fields.get("is_input", False)
    if not isinstance(is_input, bool) or (is_input and role != "assistant"):
        raise SampleError("bad_record", f'{where}: "is_input" is true or false, and true on assistant turns only')
    for key in ("loss", "weight"):
        if key not in fields:
            continue
        if fields[key] not in (0, 1):
            raise SampleError(
                "bad_record", f'{where}: "{key}" is {fields[key]!r}: only 0, 1, false and true are read, as the opposite of is_input'
            )
        if role != "assistant" and fields[key]:
            raise SampleError(
                "bad_record", f'{where}: "{key}" is {fields[key]!r} on the turn of a {role}: only answers are learned; set it to 0'
            )
        if role == "assistant" and "is_input" in fields and is_input == bool(fields[key]):
            raise SampleError("bad_record", f'{where}: "is_input" {is_input} and "{key}" {fields[key]!r} contradict each other: keep one')
        is_input = is_input or (role == "assistant" and not fields[key])
    return is_input


def _parse_media(fields: Mapping[str, Any], key: str) -> tuple[tuple[MediaFile, ...], bool]:
    """The media of a record ("image", "images" or "video"), and whether they are a video."""
    given = [field for field in ("image", "images", "video") if field in fields]
    if not given:
        return (), False
    if len(given) > 1:
        advice = "pictures and a clip in one row are not read: split it" if "video" in given else "keep one"
        raise SampleError("bad_record", f"{key}: a record has one of {', '.join(given)}, not several; {advice}")
    (field,) = given
    values = fields[field] if isinstance(fields[field], list) else [fields[field]]
    files = tuple(_parse_file(value, f'"{field}"', key) for value in values)
    if field != "video":
        return files, False
    if isinstance(fields[field], list) and all(is_still(file.name) for file in files):
        raise SampleError(
            "bad_record",
            f'{key}: "video" must be one file, not {len(files)} pictures: frames taken before are not read as a clip; write them as "images" '
            f"with one {IMAGE_MARK} for each, or join them to a clip",
        )
    if len(files) != 1:
        raise SampleError(
            "bad_record",
            f'{key}: "video" must be one file, not {len(files)}: several clips in a row are not read; split it into a row a clip',
        )
    return files, True


def _parse_file(value: Any, field: str, key: str) -> MediaFile:
    """A file name, a data URL, or {"path", "bytes"}, in which null is no bytes and base64 is the encoded file."""
    if isinstance(value, dict):
        if set(value) - {"path", "bytes"}:
            raise SampleError(
                "bad_record", f'{key}: {field} must be a file name or {{"path", "bytes"}}, not an object with {", ".join(map(repr, value))}'
            )
        data, value = value.get("bytes"), value.get("path")
        if not is_empty(data):
            name = _text(value or f"{field} (bytes)", f"the path of {field}", key)
            return MediaFile(name, _decode(_text(data, f"the bytes of {field}", key), field, key))
    name = _text(value, f"{field} must be a file name or a list of file names; each", key)
    if _BASE64_URL.match(name):
        return MediaFile(f"{field} (a data URL)", _decode(name.partition(",")[2], field, key))
    if name.startswith("data:"):
        raise SampleError("bad_media", f"{key}: {field} is a data URL that is not base64: encode the file as base64")
    if _ADDRESS.match(name):
        raise SampleError(
            "web_address", f"{key}: {field} is the address {name[:200]}; addresses are not fetched: download the file and name it"
        )
    if not name or "\0" in name:
        raise SampleError("bad_record", f"{key}: {field} must be a file name or a list of file names, not {name!r}")
    return MediaFile(name)


def _decode(text: str, field: str, key: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SampleError("bad_media", f"{key}: {field} holds bytes that are not valid base64 ({error})") from error


def _text(value: object, what: str, where: str) -> str:
    """A string of whole characters: JSON can write half of a surrogate pair, which no file or tokenizer can."""
    if not isinstance(value, str):
        raise SampleError("bad_record", f"{where}: {what} must be a string, not {_KINDS.get(type(value), 'null')}")
    if _HALF_A_PAIR.search(value):
        raise SampleError(
            "bad_text", f"{where}: {what} holds half of a surrogate pair (a string cut in the middle of an emoji): repair the text"
        )
    return value


_KINDS: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}


def place_marks(turns: tuple[Turn, ...], files: int, video: bool, key: str) -> tuple[Turn, ...]:
    """The turns with one mark for each file. A clip may be marked by one `<image>`; without media, `<video>` in a sentence is a word.

    Raises SampleError "unknown_mark" for a mark of another kit, "image_marks" or "video_marks" unless there is one mark for each file.
    """
    for turn in turns:
        other = _OTHER_MARKS.search(turn.text) or (turn.role != "assistant" and _OTHER_MARKS_OF_QUESTIONS.search(turn.text))
        if other:
            mark = other[0].strip()
            raise SampleError(
                "unknown_mark",
                f"{key}: the mark {mark} is not read; did you mean {IMAGE_MARK} or {VIDEO_MARK}? Where the word is meant write < {mark[1:-1]} >",
            )
    marks = {mark: sum(turn.text.count(mark) for turn in turns) for mark in _MARKS}
    if video and marks == {IMAGE_MARK: 1, VIDEO_MARK: 0}:
        return tuple(dataclasses.replace(turn, text=turn.text.replace(IMAGE_MARK, VIDEO_MARK)) for turn in turns)
    if not files and not marks[IMAGE_MARK] and not any(turn.role != "assistant" and _PLACED_VIDEO.search(turn.text) for turn in turns):
        return turns
    for mark, expected in ((IMAGE_MARK, 0 if video else files), (VIDEO_MARK, files if video else 0)):
        if marks[mark] != expected:
            name = mark.strip("<>")
            advice = f"write one mark where each file belongs, or where the word is meant < {name} >"
            if not files:
                advice = f'name the file in "{name}", or write < {name} > where the word is meant'
            raise SampleError(_MARKS[mark], f"{key}: {marks[mark]} {mark} marks for {expected} files; {advice}")
    return turns
