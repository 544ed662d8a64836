"""Reads rows that are not conversations: a caption, a question and its answer, an interleaved page, a plain text."""

from __future__ import annotations

import functools
import hashlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.schema import DOCUMENT, SampleError, Turn
from data_pipelines.sources.dialects.files import MediaFile, read_clips, read_file, read_images
from data_pipelines.sources.dialects.turns import Conversation
from data_pipelines.sources.dialects.values import is_empty, kind_of, read_text
from data_pipelines.text.marks import IMAGE_MARK, MARKS, VIDEO_MARK, as_words

_CHOICES = string.ascii_uppercase


def read_document(fields: Mapping[str, Any], key: str) -> Conversation:
    """Reads `text`, which is learned completely, as a document of the language share. Marks in it are words.

    Raises SampleError "bad_record", "bad_text", "empty_answer".
    """
    return Conversation((Turn(DOCUMENT, as_words(_words(fields["text"], "text", key))),), (), ())


def read_page(fields: Mapping[str, Any], key: str) -> Conversation:
    """Reads `images` and `texts`, lists of equal length (OBELICS): at each index one of them has an image or a text, the other null.

    The page becomes one document in that order, with a line for each. Raises SampleError "bad_record", "bad_text", "bad_media", "web_address".
    """
    images, texts = fields["images"], fields["texts"]
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
        raise SampleError(
            "bad_record",
            f'{key}: "images" and "texts" of a page are lists of equal length, with null where the other has something, not '
            f"{_length(images)} and {_length(texts)}",
        )
    files: list[MediaFile] = []
    lines: list[str] = []
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        if not is_empty(image):
            files.append(read_file(image, f'"images"[{number}]', key))
            lines.append(IMAGE_MARK)
        if not is_empty(text):
            lines.append(as_words(read_text(text, f'"texts"[{number}]', key)))
    return Conversation((Turn(DOCUMENT, "\n".join(lines)),), tuple(files), ())


def read_caption(fields: Mapping[str, Any], record: Mapping[str, Any], key: str, prompts: tuple[str, ...]) -> Conversation:
    """Reads a file and its `caption` or `text`, which becomes the answer to one of `prompts`, or to the file alone if there are none.

    Raises SampleError "bad_record", "bad_text", "bad_media", "web_address", "empty_answer".
    """
    given = [field for field in ("caption", "text") if field in fields]
    if len(given) > 1:
        raise SampleError("bad_record", f'{key}: the row has "caption" and "text": keep one, or list the other in `ignore`')
    caption = as_words(_words(fields[given[0]], given[0], key))
    return _answered("", caption, fields, record, key, prompts)


def read_question(fields: Mapping[str, Any], record: Mapping[str, Any], key: str, prompts: tuple[str, ...]) -> Conversation:
    """Reads `question` and `answer`, with an optional `system` prompt and media.

    A prompt may contain {question} and any other column of the row in braces.
    Raises SampleError "bad_record", "bad_text", "bad_media", "web_address", "empty_answer".
    """
    question, answer = (_words(fields[field], field, key) if field in fields else "" for field in ("question", "answer"))
    if not question or not answer:
        raise SampleError("bad_record", f'{key}: of "question" and "answer" the row has one alone: both are needed')
    found = _answered(question, as_words(answer), fields, record, key, prompts or ("{question}",))
    if "system" in fields:
        found = found._replace(turns=(Turn("system", read_text(fields["system"], '"system"', key)), *found.turns))
    return found


@functools.cache
def columns_of(prompts: tuple[str, ...]) -> frozenset[str]:
    """Returns the columns that prompts contain in braces. Raises ValueError for a prompt with unbalanced braces."""
    return frozenset(name for prompt in prompts for _, name, _, _ in string.Formatter().parse(prompt) if name)


def _answered(
    question: str, answer: str, fields: Mapping[str, Any], record: Mapping[str, Any], key: str, prompts: tuple[str, ...]
) -> Conversation:
    images, clips = read_images(fields, key), read_clips(fields, key)
    values = {name: _column(record.get(name), name, key) for name in columns_of(prompts)} | {"question": question}
    text = choose(prompts, key).format(**values) if prompts else ""
    if not any(mark in text for mark in MARKS):
        text = "\n".join([*([IMAGE_MARK] * len(images)), *([VIDEO_MARK] * len(clips)), *([text] if text else [])])
    return Conversation((Turn("user", text), Turn("assistant", answer)), images, clips)


def choose(prompts: Sequence[str], key: str) -> str:
    """Returns one of the prompts, chosen by a hash of the row's key, so that a row always has the same one."""
    return prompts[int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % len(prompts)]


def _column(value: Any, name: str, key: str) -> str:
    """Returns a column's text for a prompt; a list becomes lines that begin with "A. ", "B. " and so on."""
    if isinstance(value, list) and 0 < len(value) <= len(_CHOICES):
        return "\n".join(f"{letter}. {_words(each, name, key)}" for letter, each in zip(_CHOICES, value, strict=False))
    if is_empty(value):
        raise SampleError("bad_record", f'{key}: a prompt names the column "{name}", which the row lacks')
    return _words(value, name, key)


def _words(value: Any, name: str, key: str) -> str:
    """Returns a text with at least one character that is not white space; whole numbers are converted to text."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else read_text(value, f'"{name}"', key)
    if not text.strip():
        raise SampleError("empty_answer", f'{key}: "{name}" has no words')
    return text


def _length(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, list) else kind_of(value)
