"""Reads the media of a row, in the forms in which rows name or contain files."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.schema import SampleError
from data_pipelines.sources.dialects.values import is_empty, kind_of, read_number, read_text

IMAGE_KEYS = ("image", "images")
CLIP_KEYS = ("video", "videos")
TIME_KEYS = ("fps", "timestamps")  # for a clip given as frames
MEDIA_KEYS = (*IMAGE_KEYS, *CLIP_KEYS, *TIME_KEYS)

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BASE64_URL = re.compile(r"data:[^,]*;base64,")


class MediaFile(NamedTuple):
    """A picture or clip of a row: its name, and its encoded bytes if the row contains them."""

    name: str
    data: bytes | None = None


class RowClip(NamedTuple):
    """A clip of a row.

    Attributes:
      files: a video file, a folder of frames, or the frames.
      rate: frames per second of a clip given as frames; 0 if the row does not give it.
      times: time of each frame in seconds; empty if the row gives no times.
    """

    files: tuple[MediaFile, ...]
    rate: float = 0.0
    times: tuple[float, ...] = ()


def read_images(fields: Mapping[str, Any], key: str) -> tuple[MediaFile, ...]:
    """Returns the pictures of "image" or "images". Raises SampleError "bad_record", "bad_text", "bad_media", "web_address"."""
    field = _one_of(fields, IMAGE_KEYS, key)
    if field is None:
        return ()
    values = fields[field] if isinstance(fields[field], list) else [fields[field]]
    return tuple(read_file(value, f'"{field}"', key) for value in values)


def read_clips(fields: Mapping[str, Any], key: str) -> tuple[RowClip, ...]:
    """Returns the clips of "video" or "videos".

    A clip is a file, a folder of frames, or a list of pictures, which are its frames. Frames have the rate "fps" or the times "timestamps":
    one value for all clips, or a list with one value for each clip. Raises SampleError as read_images.
    """
    field = _one_of(fields, CLIP_KEYS, key)
    if field is None:
        for time in TIME_KEYS:
            if time in fields:
                raise SampleError("bad_record", f'{key}: the row has "{time}" and no clip; name the clip in "video"')
        return ()
    value = fields[field]
    if not isinstance(value, list):
        clips: Sequence[Any] = [value]
    elif _all_frames(value):
        clips = [value]
    else:
        clips = value
    read = [_read_files(clip, f'"{field}"', key) for clip in clips]
    rates = _of_each(fields.get("fps"), len(read), list, "fps", key)
    times = _of_each(fields.get("timestamps"), len(read), type(None), "timestamps", key)
    return tuple(RowClip(files, _rate(rate, key), _times(each, key)) for files, rate, each in zip(read, rates, times, strict=True))


def read_file(value: Any, field: str, key: str) -> MediaFile:
    """Reads a file name, a data URL, encoded bytes, or {"path", "bytes"}, in which "bytes" is null, bytes or text in base64.

    Raises SampleError "bad_record", "bad_text", "bad_media", "web_address".
    """
    if isinstance(value, bytes):
        return MediaFile(f"{field} (bytes)", value)
    if isinstance(value, dict):
        if set(value) - {"path", "bytes"}:
            raise SampleError(
                "bad_record", f'{key}: {field} must be a file name or {{"path", "bytes"}}, not an object with {", ".join(map(repr, value))}'
            )
        data, value = value.get("bytes"), value.get("path")
        if not is_empty(data):
            name = read_text(value or f"{field} (bytes)", f"the path of {field}", key)
            if isinstance(data, bytes):
                return MediaFile(name, data)
            return MediaFile(name, _decode(read_text(data, f"the bytes of {field}", key), field, key))
    name = read_text(value, f"{field} must be a file name or a list of file names; each", key)
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


def _one_of(fields: Mapping[str, Any], keys: Sequence[str], key: str) -> str | None:
    given = [name for name in keys if name in fields]
    if len(given) > 1:
        raise SampleError("bad_record", f'{key}: the row has "{given[0]}" and "{given[1]}": keep one, or list the other in `ignore`')
    return given[0] if given else None


def _all_frames(values: list[Any]) -> bool:
    """Returns True if all files of a list are pictures, so that the list is one clip given as frames."""
    return all(is_still(_name(value)) for value in values)


def _name(value: Any) -> str:
    name = value.get("path") if isinstance(value, dict) else value
    return name if isinstance(name, str) else ""


_STILL = re.compile(
    r".*\.(png|jpg|jpeg|jpe|jfif|bmp|tif|tiff|ppm|avif|heic|heif|jxl|svg)|data:image/(?!gif|webp).*", re.IGNORECASE | re.DOTALL
)


def is_still(name: str) -> bool:
    """Returns True if a file name has the extension of a format for still pictures, or is a data URL of one."""
    return _STILL.fullmatch(name) is not None


def _read_files(clip: Any, field: str, key: str) -> tuple[MediaFile, ...]:
    if not isinstance(clip, list):
        file = read_file(clip, field, key)
        if is_still(file.name):
            raise SampleError("bad_record", f'{key}: {field} is the picture {file.name}, not a clip: write it as "image"')
        return (file,)
    if not clip or not _all_frames(clip):
        raise SampleError("bad_record", f"{key}: {field}: a clip is a file, a folder of frames or a list of pictures, its frames")
    return tuple(read_file(frame, field, key) for frame in clip)


def _of_each(value: Any, clips: int, shared: type, name: str, key: str) -> list[Any]:
    """Returns the value for each clip, from a list with one value for each or from a value for all clips.

    `shared`: with `list`, any list has one value for each clip (rates); else only a list of lists has, and a plain list is the value of a clip
    (times).
    """
    if value is None:
        return [None] * clips
    is_list = isinstance(value, list) and (shared is list or (bool(value) and isinstance(value[0], list)))
    each = value if is_list else [value] * clips
    if len(each) != clips:
        raise SampleError("bad_record", f'{key}: "{name}" has {len(each)} values for {clips} clips; give one for each')
    return list(each)


def _rate(value: Any, key: str) -> float:
    rate = 0.0 if is_empty(value) else read_number(value, '"fps"', key)
    if rate < 0 or (rate == 0 and not is_empty(value)):
        raise SampleError("bad_record", f'{key}: "fps" is {value!r}: frames a second are above 0')
    return rate


def _times(value: Any, key: str) -> tuple[float, ...]:
    if is_empty(value):
        return ()
    if not isinstance(value, list):
        raise SampleError("bad_record", f'{key}: "timestamps" must be a list of seconds, one for each frame, not {kind_of(value)}')
    return tuple(read_number(time, 'each time in "timestamps"', key) for time in value)


def _decode(text: str, field: str, key: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SampleError("bad_media", f"{key}: {field} holds bytes that are not valid base64 ({error})") from error
