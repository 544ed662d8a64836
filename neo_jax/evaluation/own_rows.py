"""A user's own rows as a benchmark: a JSON Lines file in any dialect that training reads, with the right answers."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import NamedTuple

from data_pipelines.schema import DataError, Sample, SampleError, SourceSettings
from data_pipelines.sources.samples import SampleReader
from data_pipelines.text.marks import words

ACCEPTED = "answers"  # a row's key with several accepted answers


class Row(NamedTuple):
    """A question: the conversation up to the user's last turn, and the accepted answers."""

    conversation: Sample
    answers: tuple[str, ...]


def read_rows(file: pathlib.Path, media_root: str, pictures: str, most: int = 0) -> list[Row]:
    """Reads the questions of a file. The last turn of a row is the answer, unless it has `answers`: a list of all that are accepted.

    Args:
      media_root: folder that media paths are relative to.
      pictures: policy by which pictures are read.
      most: largest number of rows of each family; 0: all.

    Raises:
      DataError: the file cannot be read, or a row cannot; file, line and reason are named.
    """
    reader = SampleReader(SourceSettings(file.name, "jsonl", str(file), media_root, pictures=pictures))
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error})") from error
    rows: list[Row] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _row(reader, line, f"{file.name}:{number}")
        family = row.conversation.family
        counts[family] = counts.get(family, 0) + 1
        if not most or counts[family] <= most:
            rows.append(row)
    if not rows:
        raise DataError(f"{file} holds no rows: name a JSON Lines file with one question a line")
    return rows


def _row(reader: SampleReader, line: str, key: str) -> Row:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{key}: not JSON ({error})") from error
    accepted = record.pop(ACCEPTED, None) if isinstance(record, dict) else None
    if accepted is not None and not (isinstance(accepted, list) and accepted and all(isinstance(each, str) for each in accepted)):
        raise DataError(f"{key}: {ACCEPTED!r} must be a list of texts, not {accepted!r:.80}")
    try:
        sample = reader.read(record, key)
    except SampleError as error:
        raise DataError(f"{error} ({error.reason})") from error
    turns = sample.turns
    if turns[-1].role == "assistant":
        answers = tuple(accepted) if accepted else (words(turns[-1].text),)
        turns = turns[:-1]
    elif accepted:
        answers = tuple(accepted)
    else:
        raise DataError(f"{key}: has no answer: end it with the assistant's turn, or list the accepted answers under {ACCEPTED!r}")
    if not turns or turns[-1].role != "user":
        raise DataError(f"{key}: has no question: the turn before the answer must be the user's")
    return Row(dataclasses.replace(sample, turns=turns), answers)
