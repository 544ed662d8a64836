"""Converts a row to turns and files: recognises its dialect, and has its keys checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data_pipelines.schema import DOCUMENT, SampleError, SourceSettings, Turn
from data_pipelines.sources.dialects import texts
from data_pipelines.sources.dialects.files import CLIP_KEYS, IMAGE_KEYS, MEDIA_KEYS, MediaFile, RowClip
from data_pipelines.sources.dialects.placing import place_marks
from data_pipelines.sources.dialects.turns import KEYS as CONVERSATION_KEYS
from data_pipelines.sources.dialects.turns import TURNS_KEYS, Conversation, read_conversation
from data_pipelines.sources.dialects.values import is_empty, read_text
from data_pipelines.sources.keys import Keys

VERSION = 3  # version of how rows are read: raise it when the same row may give another sample

_ABOUT = ("family", "id")
CAPTION_KEYS = (*MEDIA_KEYS, "caption", "text", *_ABOUT)
QUESTION_KEYS = (*MEDIA_KEYS, "system", "question", "answer", *_ABOUT)
PAGE_KEYS = ("images", "texts", *_ABOUT)
DOCUMENT_KEYS = ("text", *_ABOUT)
KEYS = tuple(dict.fromkeys((*CONVERSATION_KEYS, *QUESTION_KEYS, *CAPTION_KEYS, *PAGE_KEYS)))  # keys of all dialects

Reader = Callable[[Mapping[str, Any], Mapping[str, Any], str, Keys], Conversation]  # of the read fields, the whole row, its key


class Row(NamedTuple):
    """The content of a row: turns with one mark for each file, the files in order, and the family ("" if not given)."""

    turns: tuple[Turn, ...]
    images: tuple[MediaFile, ...]
    clips: tuple[RowClip, ...]
    family: str


def read_row(record: object, key: str, keys: Keys, settings: SourceSettings) -> Row:
    """Reads a row in one of the dialects, which is recognised by its keys:

    - "conversations" or "messages": a conversation (turns.read_conversation);
    - "question" and "answer": one question (texts.read_question);
    - "images" and "texts": a page (texts.read_page);
    - a picture or clip and "caption" or "text": a caption (texts.read_caption);
    - "text" alone: a plain text (texts.read_document).

    Columns that the source's `columns` maps to these keys are renamed first.

    Args:
      record: the row; an error if it is not a dict.
      key: name of the row.
      keys: checker of the source's keys, which counts or refuses keys that are not read.
      settings: settings of the source.

    Raises:
      SampleError: "bad_record", "bad_text", "bad_media", "web_address", "unknown_key", "unknown_role", "unknown_mark", "empty_answer",
        "image_marks", "video_marks".
    """
    if not isinstance(record, dict):
        raise SampleError("bad_record", f'{key}: a record is an object with "conversations", not {type(record).__name__}')
    record = _renamed(record, key, settings.columns)
    fields = keys.read(record, KEYS)
    known, read = _dialect(fields, record, settings.prompts)
    keys.check_others(record, known, key)
    if read is None:
        raise SampleError("bad_record", f"{key}: {_unknown_dialect(record)}")
    found = read({name: value for name, value in fields.items() if name in known}, record, key, keys)
    family = read_text(fields.get("family", ""), '"family"', key)
    is_document = found.turns[0].role == DOCUMENT
    turns = found.turns if is_document else place_marks(found.turns, len(found.images), len(found.clips), key)
    return Row(turns, found.images, found.clips, family)


def _dialect(fields: Mapping[str, Any], record: Mapping[str, Any], prompts: tuple[str, ...]) -> tuple[tuple[str, ...], Reader | None]:
    """Returns the keys that a row's dialect reads, and the function that reads it; None if the row is in no dialect."""
    has = fields.keys().__contains__
    if any(map(has, TURNS_KEYS)):
        return CONVERSATION_KEYS, read_conversation
    if has("question") or has("answer"):
        known = (*QUESTION_KEYS, *texts.columns_of(prompts))
        return known, lambda fields, record, key, keys: texts.read_question(fields, record, key, prompts)
    if has("images") and has("texts"):
        return PAGE_KEYS, lambda fields, record, key, keys: texts.read_page(fields, key)
    if (has("caption") or has("text")) and any(map(has, (*IMAGE_KEYS, *CLIP_KEYS))):
        known = (*CAPTION_KEYS, *texts.columns_of(prompts))
        return known, lambda fields, record, key, keys: texts.read_caption(fields, record, key, prompts)
    if has("text"):
        return DOCUMENT_KEYS, lambda fields, record, key, keys: texts.read_document(fields, key)
    if any(name in record for name in TURNS_KEYS):  # the turns are empty: read_conversation reports it
        return CONVERSATION_KEYS, read_conversation
    return KEYS, None


def with_rate(clip: RowClip, rate: float, key: str) -> RowClip:
    """Returns a clip given as frames with their times. `rate`: frames per second if the row does not give them; 0: not known.

    Raises SampleError "bad_record" if neither the row nor `rate` gives times, if the row gives both a rate and times, or if the number of
    times is not that of the frames.
    """
    if clip.times:
        if clip.rate:
            raise SampleError("bad_record", f'{key}: the row gives "fps" and "timestamps" of its frames: keep one')
        if len(clip.times) != len(clip.files):
            raise SampleError("bad_record", f'{key}: "timestamps" has {len(clip.times)} times for {len(clip.files)} frames')
        return clip
    rate = clip.rate or rate
    if not rate:
        raise SampleError(
            "bad_record",
            f'{key}: the clip is given as {len(clip.files)} frames, and nothing says when they are shown: give "fps" or "timestamps" in the '
            "row, or frame_rate of the source",
        )
    return clip._replace(times=tuple(number / rate for number in range(len(clip.files))))


def _renamed(record: dict[str, Any], key: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Returns the row with the columns in `columns` renamed to the keys that are read."""
    if not columns:
        return record
    taken = set(columns.values())
    renamed = {name: value for name, value in record.items() if name not in taken}
    for name, column in columns.items():
        if column not in record:
            raise SampleError("bad_record", f"{key}: the row has no column {column!r}, which `columns` of the source reads as {name}")
        if name in renamed and not is_empty(renamed[name]):
            raise SampleError("bad_record", f"{key}: the row has a key {name!r} beside the column {column!r}: name one of them in `ignore`")
        renamed[name] = record[column]
    return renamed


def _unknown_dialect(record: Mapping[str, Any]) -> str:
    return (
        f"the row's keys are {', '.join(map(repr, record)) or 'none'}: nothing to train on was found under them; rows are conversations "
        '("conversations" or "messages"), questions ("question", "answer"), captions ("image" or "video" with "caption" or "text"), pages '
        '("images", "texts") or texts ("text"); `columns` of the source names other columns'
    )
