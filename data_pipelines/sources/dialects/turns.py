"""Reads conversations: `conversations` (from, value) and `messages` (role, content), with a system prompt, tools and media in columns beside
them or in parts of the content. These are the layouts of LLaVA, ShareGPT, OpenAI's API, Qwen-VL, ms-swift and LLaMA-Factory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from data_pipelines.schema import ROLES, SampleError, Turn
from data_pipelines.sources.dialects import tools
from data_pipelines.sources.dialects.files import CLIP_KEYS, IMAGE_KEYS, MEDIA_KEYS, MediaFile, RowClip, read_clips, read_file, read_images
from data_pipelines.sources.dialects.values import is_empty, kind_of, read_text
from data_pipelines.sources.keys import Keys
from data_pipelines.text.marks import IMAGE_MARK, VIDEO_MARK, as_words

TURNS_KEYS = ("conversations", "messages")
KEYS = (*TURNS_KEYS, "system", "tools", *MEDIA_KEYS, "family", "id")
TURN_KEYS = ("from", "value", "role", "content", "tool_calls", "is_input", "loss", "weight")

_ROLES = {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}
_PART_KEYS = ("type", "text", "image", "image_url", "video", "video_url", "fps", "timestamps")


class Conversation(NamedTuple):
    """Turns, and the files of their marks in order."""

    turns: tuple[Turn, ...]
    images: tuple[MediaFile, ...]
    clips: tuple[RowClip, ...]


def read_conversation(fields: Mapping[str, Any], record: Mapping[str, Any], key: str, keys: Keys) -> Conversation:
    """Reads a row with `conversations` or `messages`.

    Args:
      fields: fields of the row with keys in KEYS.
      record: the whole row.
      key: name of the row.
      keys: checker of the source's keys.

    Raises SampleError "bad_record", "bad_text", "bad_media", "web_address", "unknown_key", "unknown_role", "empty_answer".
    """
    given = [field for field in TURNS_KEYS if field in fields]
    if len(given) > 1:
        raise SampleError("bad_record", f'{key}: the row has "conversations" and "messages": keep one, or list the other in `ignore`')
    turns, parts = read_turns(fields[given[0]] if given else None, key, keys)
    images, clips = read_images(fields, key), read_clips(fields, key)
    if parts.images or parts.clips:
        if images or clips:
            held = next(field for field in (*IMAGE_KEYS, *CLIP_KEYS) if field in fields)
            raise SampleError("bad_record", f'{key}: files are named in parts of the turns and in "{held}": keep one')
        images, clips = parts.images, parts.clips
    return Conversation(_with_system(fields, turns, key), images, clips)


def read_turns(conversation: object, key: str, keys: Keys) -> tuple[tuple[Turn, ...], Conversation]:
    """Returns the turns of a list of {"from", "value"} or {"role", "content"}, and the files that their parts name.

    Assistant turns may also have "is_input", "loss" or "weight", and "tool_calls". Raises SampleError as read_conversation.
    """
    if not isinstance(conversation, list) or not conversation:
        raise SampleError("bad_record", f'{key}: "conversations" must be a list of at least one turn with "from" and "value"')
    reader = _TurnReader(keys)
    read = [reader.read(turn, f"{key}, turn {number}") for number, turn in enumerate(conversation)]
    turns = tools.join_answers(read)
    if reader.images or reader.clips:  # the parts give the places of files: marks in their texts are words
        turns = tuple(Turn(turn.role, reader.with_marks(turn.text), turn.is_input) for turn in turns)
    return turns, Conversation(turns, tuple(reader.images), tuple(reader.clips))


def _with_system(fields: Mapping[str, Any], turns: tuple[Turn, ...], key: str) -> tuple[Turn, ...]:
    """Returns the turns, preceded by a system turn if the row has a system prompt or tools, whose descriptions end the prompt."""
    first, rest = (turns[0], turns[1:]) if turns[0].role == "system" else (None, turns)
    if "system" in fields and any(turn.role == "system" for turn in turns):
        raise SampleError("bad_record", f'{key}: the row has a key "system" and a system turn: keep one of them')
    prompt = read_text(fields["system"], '"system"', key) if "system" in fields else first.text if first else ""
    if "tools" in fields:
        prompt = tools.system_text(prompt, fields["tools"], key)
    return (Turn("system", prompt), *rest) if prompt else turns


class _TurnReader:
    """Reads turns one after the other, and collects the files of their parts.

    A part that is a file becomes a placeholder in the turn's text until all turns are read and it is known whether the parts name files at all.
    """

    def __init__(self, keys: Keys):
        self.images: list[MediaFile] = []
        self.clips: list[RowClip] = []
        self._keys = keys

    def read(self, turn: Any, where: str) -> tuple[Turn, bool]:
        """Returns the turn, and whether it is a tool's answer."""
        if not isinstance(turn, dict):
            raise SampleError("bad_record", f'{where}: a turn is an object with the strings "from" and "value", or "role" and "content"')
        if len(turn) == 2 and (plain := self._plain(turn)):
            return plain, False
        fields = self._keys.read(turn, TURN_KEYS)
        self._keys.check_others(turn, TURN_KEYS, where)
        name, name_key = _either(turn, "from", "role", where)
        name = read_text(name, f'"{name_key}"', where)
        calls = fields.get("tool_calls")
        text, text_key = ("", "content") if calls is not None and _says_nothing(turn) else _either(turn, "value", "content", where)
        is_answer, is_call = name in tools.ANSWER_ROLES, name in tools.CALL_ROLES
        role = "user" if is_answer else "assistant" if is_call else _role(name, name_key, where)
        text = self._content(text, text_key, where)
        if is_call:
            text = tools.call_text(text, where)
        if calls is not None:
            if role != "assistant" or is_call:
                raise SampleError("bad_record", f'{where}: "tool_calls" stands on the turn of a {name!r}: only an assistant calls tools')
            text = tools.calls_text(text, calls, where)
        is_input = _is_input(fields, role, where)
        if role == "assistant" and not is_input and not text.replace(IMAGE_MARK, "").strip():
            raise SampleError(
                "empty_answer",
                f'{where}: the answer {text!r} has no words, so it teaches to say nothing: write one, or set "is_input" to true',
            )
        return Turn(role, text, is_input), is_answer

    def _plain(self, turn: dict[str, Any]) -> Turn | None:
        """Returns a turn of a role and a text alone, as most are; None for one that needs a closer look."""
        name, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        role = _ROLES.get(name) if type(name) is str else None
        if role is None or type(text) is not str or not text.isascii() or self._keys.ignores(turn):
            return None
        if role == "assistant" and not text.replace(IMAGE_MARK, "").strip():
            return None
        return Turn(role, text)

    def with_marks(self, text: str) -> str:
        """Returns a turn's text with placeholders of files replaced by marks, after turning marks in the text into words."""
        return as_words(text).replace(_IMAGE_PART, IMAGE_MARK).replace(_CLIP_PART, VIDEO_MARK)

    def _content(self, content: Any, name: str, where: str) -> str:
        if not isinstance(content, list):
            return read_text(content, f'"{name}"', where)
        return "".join(self._part(part, f"{where}, part {number}") for number, part in enumerate(content))

    def _part(self, part: Any, where: str) -> str:
        """Returns the text of a part; for a file its placeholder, or its mark if the part is empty and a column of the row names the file."""
        if isinstance(part, str):
            return read_text(part, "a part", where)
        if not isinstance(part, dict):
            raise SampleError("bad_record", f'{where}: a part is a string or an object with "type", not {kind_of(part)}')
        fields = {name: value for name, value in part.items() if not is_empty(value)}
        self._keys.check_others(part, _PART_KEYS, where)
        kind = fields.get("type")
        if kind is None:
            kind = next((name for name in ("text", "image", "video") if name in fields), None)
        if kind == "text":
            return read_text(part.get("text"), '"text" of a part', where)
        if kind in ("image", "image_url"):
            value = _address(fields.get("image", fields.get("image_url")))
            if is_empty(value):
                return IMAGE_MARK
            self.images.append(read_file(value, f'"{kind}" of a part', where))
            return _IMAGE_PART
        if kind in ("video", "video_url"):
            value = _address(fields.get("video", fields.get("video_url")))
            if is_empty(value):
                return VIDEO_MARK
            times = {name: fields[name] for name in ("fps", "timestamps") if name in fields}
            self.clips += read_clips({"video": value, **times}, where)
            return _CLIP_PART
        raise SampleError(
            "bad_record", f"{where}: parts of the type {kind!r} are not read; the types are text, image, image_url, video and video_url"
        )


_IMAGE_PART, _CLIP_PART = "\ufdd1", "\ufdd2"  # noncharacters like marks.NONCHARACTER


def _address(value: Any) -> Any:
    """Returns the address in {"url": ...}, the format of OpenAI's API; any other value unchanged."""
    return value["url"] if isinstance(value, dict) and set(value) - {"detail"} == {"url"} else value


def _says_nothing(turn: Mapping[str, Any]) -> bool:
    return is_empty(turn.get("value")) and is_empty(turn.get("content"))


def _either(turn: Mapping[str, Any], key: str, other: str, where: str) -> tuple[Any, str]:
    """Returns the value of a key that has two spellings, and the spelling in the turn. Raises SampleError "bad_record" unless it has one."""
    value, other_value = turn.get(key), turn.get(other)
    if (value is None) == (other_value is None):
        says = "neither of them" if value is None else "both"
        raise SampleError(
            "bad_record",
            f'{where}: a turn is an object with the strings "from" and "value", or "role" and "content": of "{key}" and "{other}" it has {says}',
        )
    return (other_value, other) if value is None else (value, key)


def _role(name: str, name_key: str, where: str) -> str:
    if role := _ROLES.get(name):
        return role
    known = ", ".join((*_ROLES, *tools.CALL_ROLES, *tools.ANSWER_ROLES))
    raise SampleError("unknown_role", f'{where}: unknown role {name!r} in "{name_key}"; roles are {known}')


def _is_input(fields: Mapping[str, Any], role: str, where: str) -> bool:
    """Returns True if an answer is context only, from "is_input" or as the opposite of "loss" or "weight"."""
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
