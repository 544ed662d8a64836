"""A user's own rows as a benchmark: a JSON or JSON Lines file in any dialect that training reads, with the right answers."""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from typing import NamedTuple

from data_pipelines.schema import DataError, Sample, SampleError, SourceSettings
from data_pipelines.sources import open_source
from data_pipelines.sources.source import RecordSource
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
    source = open_source(SourceSettings(file.name, "jsonl", str(file), media_root, pictures=pictures, ignore=(ACCEPTED,)))
    assert isinstance(source, RecordSource)  # as every source of lines
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    for number in range(len(source)):
        try:
            row = _row(source[number], source.container.record(number).fields.get(ACCEPTED))
        except SampleError as error:
            raise DataError(f"{error} ({error.reason})") from error
        counts[row.conversation.family] += 1
        if not most or counts[row.conversation.family] <= most:
            rows.append(row)
    return rows


def _row(sample: Sample, accepted: object) -> Row:
    """Raises SampleError if the sample is no question with an answer."""
    if accepted is not None and not (isinstance(accepted, list) and accepted and all(isinstance(each, str) for each in accepted)):
        raise SampleError("bad_record", f"{sample.key}: {ACCEPTED!r} must be a list of texts, not {accepted!r:.80}")
    turns, answers = sample.turns, tuple(accepted or ())
    if turns[-1].role == "assistant":
        answers = answers or (words(turns[-1].text),)
        turns = turns[:-1]
    if not answers:
        raise SampleError(
            "no_answer", f"{sample.key}: has no answer: end it with the assistant's turn, or list the accepted answers under {ACCEPTED!r}"
        )
    if not turns or turns[-1].role != "user":
        raise SampleError("no_question", f"{sample.key}: has no question: the turn before the answer must be the user's")
    return Row(dataclasses.replace(sample, turns=turns), answers)
