"""Checks the keys of rows and turns: a key that is not read is refused if it can change what is trained, else ignored and counted.

It is refused if its name has a word for media, turns, tools, loss or a clip's cut, if it looks like a misspelling of a key that is read, or
if its value looks like a media file, the bytes of one or a list of turns.
"""

from __future__ import annotations

import base64
import difflib
import functools
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.schema import SampleError
from data_pipelines.sources.dialects.values import is_empty

# Keys that may be misspelled: a key similar to one of them is refused.
_LIKELY = ("conversations", "messages", "system", "image", "images", "video", "videos")

_IMAGES = {"image", "img", "picture", "pic", "photo", "screenshot", "thumbnail", "visual"}
_VIDEOS = {"video", "vid", "clip", "movie"}
_MEDIA = _IMAGES | _VIDEOS | {"audio", "sound", "speech", "media", "multimedia", "base64", "b64", "bytes"}
_TURNS = {"conversation", "message", "dialog", "dialogue", "chat", "turn", "history", "prompt", "instruction", "completion", "response"}
_TURNS |= {"chosen", "rejected"}
_SYSTEM = {"system", "role"}
_TOOLS = {"tool", "function"}
_CHOICES = {"choice", "choices", "option", "options"}
_LOSS = {"loss", "weight", "mask", "masked", "train", "trainable", "supervised"}
_CUT = {"fps", "nframe", "frame", "pixel", "start", "end", "begin"}  # which part of a clip is shown, and at which size
_IN_TURNS = {"text", "thinking", "reasoning", "thought", "refusal"}
_NAMES = _MEDIA | _TURNS | _SYSTEM | _TOOLS | _LOSS | _CUT
# Words that mark a key as a description of media or turns (image_id, num_turns, video_duration), not as media or turns themselves.
_ABOUT = """id uid idx index hash md5 sha1 sha256 width height size shape resolution ratio count num number total length duration source
 dataset origin type kind category format license author copyright date language lang version quality score rating caption description
 title tag domain topic rank split has is"""
_DESCRIBING = frozenset(_ABOUT.split())

_STILLS = "png jpg jpeg jpe jfif bmp tif tiff ppm avif heic heif jxl svg"
_OTHERS = "webp gif mp4 m4v mov mkv webm avi mpg mpeg flv wmv 3gp wav mp3 flac ogg opus npy npz"
_MEDIA_NAME = re.compile(rf"[^\n]{{1,1000}}\.({'|'.join((_STILLS + ' ' + _OTHERS).split())})([?#]\S*)?", re.IGNORECASE)
_WEB_ADDRESS = re.compile(r"https?://\S+$")
_DATA_URL = re.compile(r"data:[\w.+/-]*[;,]")
_FILE_STARTS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\x1aE\xdf\xa3")

log = logging.getLogger(__name__)


class Keys:
    """Checks the keys of one source, and counts those that are ignored. Safe to share between threads.

    Args:
      source: name of the source.
      ignore: keys of rows and turns that are ignored without a check.
      conditions: keys of rows that conditions use; they are allowed without a check.

    Attributes:
      ignored: number of rows or turns in which each key that is not read was ignored by the rules. The log names each key once.
    """

    def __init__(self, source: str, ignore: Iterable[str], conditions: Iterable[str] = ()):
        self.ignored: Counter[str] = Counter()
        self._source = source
        self._ignore = frozenset(ignore)
        self._allowed = self._ignore | frozenset(conditions)
        self._lock = threading.Lock()

    def read(self, fields: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
        """Returns the fields of a row or turn that are read and not empty."""
        wanted = _set(known)
        return {key: value for key, value in fields.items() if key in wanted and key not in self._ignore and not is_empty(value)}

    def ignores(self, fields: Mapping[str, Any]) -> bool:
        """Returns whether a key of a row or turn is one that the source ignores."""
        return not self._ignore.isdisjoint(fields)

    def check_others(self, fields: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        """Counts the fields that are not read. Raises SampleError "unknown_key" for a field that can change what is trained.

        Args:
          fields: all fields of a row, a turn or a part of a turn.
          known: keys that are read. They are those of a turn if they include "role", of a part of a turn if they include "type", else of a row.
          where: name of the row or turn for messages.
        """
        read = _set(known)
        others = [key for key in fields if key not in read and key not in self._allowed and not is_empty(fields[key])]
        if not others:
            return
        has_media = not is_empty([fields.get(key) for key in known if key in _MEDIA])
        for key in others:
            if has_media and _WEB_ADDRESS.match(str(fields[key])):
                continue  # the address from which the row's media were downloaded
            if "question" in known and _words(key) <= _CHOICES:
                raise SampleError(
                    "unknown_key",
                    f"{where}: the key {key!r} belongs to the question: write {{{key}}} in `prompts` of source {self._source!r}",
                )
            if can_change_training(key, fields[key], bool({"role", "type"} & set(known))):
                raise SampleError("unknown_key", f"{where}: {self._refusal(key, known)}")
        self.pass_over(others, where)

    def pass_over(self, keys: Sequence[str], where: str) -> None:
        """Counts keys that are not read, and logs each key once."""
        with self._lock:
            new = [key for key in keys if key not in self.ignored]
            self.ignored.update(keys)
        if new:
            log.warning("source %r: keys that are not read: %s (first seen in %s)", self._source, ", ".join(map(repr, new)), where)

    def _refusal(self, key: str, known: tuple[str, ...]) -> str:
        return (
            f"the key {key!r} can change what is trained, and it is not read{_did_you_mean(key, known)}; the keys that are read: "
            f"{', '.join(known)}; rename it, or list it in `ignore` of source {self._source!r} to train without it"
        )


@functools.lru_cache
def _set(keys: tuple[str, ...]) -> frozenset[str]:
    """Returns keys as a set: rows have few of the many keys that are read."""
    return frozenset(keys)


def can_change_training(key: str, value: object, in_turn: bool) -> bool:
    """Returns True if a key that is not read could change what is trained, judged by its name and its value."""
    return _name_can(key, in_turn) or _looks_like_media(value) or _looks_like_turns(value)


@functools.lru_cache(4096)
def _name_can(key: str, in_turn: bool) -> bool:
    words = _words(key)
    if words & _LOSS:
        return True
    if not in_turn and difflib.get_close_matches(key.lower(), _LIKELY, 1, 0.8):
        return not words & _DESCRIBING
    return bool(words & (_NAMES | _IN_TURNS if in_turn else _NAMES)) and not words & _DESCRIBING


def _words(key: str) -> frozenset[str]:
    """Returns the words of a snake_case or camelCase name, in lower case, with and without a plural's s."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+", key)]
    return frozenset(words) | {word.removesuffix("s") for word in words}


def _did_you_mean(key: str, known: tuple[str, ...]) -> str:
    words = _words(key)
    if "role" in known:
        return "; did you mean 'is_input'?" if words & _LOSS else ""
    hints = ((_SYSTEM, "system"), (_VIDEOS, "video"), (_IMAGES, "image"), (_TURNS, "conversations"))
    likely = next((hint for names, hint in hints if words & names), None)
    alike = [likely] if likely else difflib.get_close_matches(key.lower(), known, 1, 0.6)
    if words & _LOSS and not likely:
        return " (a loss is set turn by turn: is_input, loss or weight of an assistant turn)"
    return f"; did you mean {alike[0]!r}?" if alike else ""


def _looks_like_media(value: object, depth: int = 3) -> bool:
    if isinstance(value, str):
        return _DATA_URL.match(value) is not None or _MEDIA_NAME.fullmatch(value) is not None or _is_base64_file(value)
    if isinstance(value, bytes):
        return value.startswith(_FILE_STARTS)
    if not depth:
        return False
    if isinstance(value, dict):
        return not is_empty(value.get("bytes")) or any(_looks_like_media(item, depth - 1) for item in value.values())
    return isinstance(value, list) and any(_looks_like_media(item, depth - 1) for item in value)


def _is_base64_file(text: str) -> bool:
    if len(text) < 64 or not re.fullmatch(r"[A-Za-z0-9+/]{64}", text[:64]):
        return False
    start = base64.b64decode(text[:64])
    return start.startswith(_FILE_STARTS) or start[4:8] == b"ftyp"


def _looks_like_turns(value: object) -> bool:
    if isinstance(value, str):
        return re.match(r'\s*\[\s*\{\s*"(role|from|content|value)"\s*:', value) is not None
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    keys = value[0].keys()
    return bool(keys & {"role", "from"} and keys & {"content", "value", "text"}) or bool(keys & {"assistant", "gpt"})
