"""Scores a checkpoint on one's own questions: python -m neo_jax.evaluate --checkpoint=PLACE --output=FOLDER rows.jsonl."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import jax

from data_pipelines.progress import progress
from data_pipelines.schema import DataError, Document, SampleError
from neo_jax.config.fields import AtLeastZero, ConfigError, OneOf, OptionalPath, Path, Positive, Whole
from neo_jax.config.flags import Command, read_flags
from neo_jax.evaluation.metrics import METRICS, Options
from neo_jax.evaluation.own_rows import Row, read_rows
from neo_jax.evaluation.results import ANSWERS, AnswersFile, Result, differences_of, read_answers, scores_of, table, write_scores
from neo_jax.exit_codes import CONFIGURATION, DATA, DONE
from neo_jax.inference.answering import Answerer
from neo_jax.inference.opening import CheckpointFlags, mesh_for, open_answerer
from neo_jax.inference.sampling import GREEDY
from neo_jax.interop.errors import WeightsError
from neo_jax.places import open_place
from neo_jax.runs.reading import CheckpointError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(CheckpointFlags):
    """The flags besides the file.

    Attributes:
      output: folder for answers.jsonl and scores.json. An evaluation that was stopped goes on there.
      media_root: folder that the media paths of the rows are relative to.
      metric: exact; caseless (case, blanks and a final full stop do not count); relaxed (numbers within 5%, ChartQA's); anls (DocVQA's); letter (of a
        choice); number (the last one, within tolerance); regex (what pattern finds); vqa (how many of the accepted answers agree).
      tolerance: of number: relative error that is accepted.
      pattern: of regex: its first group, or all of it, must be an accepted answer.
      blank: shows grey pictures instead of the rows': how much is answered without looking.
      most: largest number of rows of each family; 0: all.
      compare: folder of another evaluation of the same rows; prints the paired differences.
      max_tokens: largest number of tokens of an answer.
      tokens: largest number of tokens that are answered at a time, room for the answers counted.
    """

    output: Path
    media_root: OptionalPath = ""
    metric: Annotated[str, OneOf(tuple(METRICS))] = "exact"
    tolerance: AtLeastZero = 0.0
    pattern: str = ""
    blank: bool = False
    most: Whole = 0
    compare: OptionalPath = ""
    max_tokens: Positive = 64
    tokens: Positive = 32_768

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.metric == "regex") != bool(self.pattern):
            yield "pattern", "belongs to --metric=regex, which needs it"
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield "pattern", f"is no regular expression ({error})"


COMMAND = Command(
    "neo_jax.evaluate",
    "Answers the questions of a JSON Lines file greedily and scores the answers. Rows are those that training reads; the last turn is the right "
    "answer, or the key answers lists all that are accepted; the key family groups rows.",
    "--checkpoint=runs/mine --output=scores --media-root=images rows.jsonl",
    {
        DONE: "scored",
        DATA: "a row, a picture or the tokenizer cannot be used",
        CONFIGURATION: "a flag is wrong, or the checkpoint cannot be read",
    },
    operands="FILE",
)


def evaluate(flags: Flags, file: pathlib.Path) -> list[str]:
    """Answers and scores; returns the tables. Raises DataError, WeightsError or CheckpointError."""
    place = open_place(flags.checkpoint)
    rows = read_rows(file, flags.media_root, place.pictures, flags.most)
    settings = _settings(flags, file, place.identity())
    answers = AnswersFile(pathlib.Path(flags.output), settings)
    if left := [row for row in rows if row.conversation.key not in answers.results]:
        with jax.set_mesh(mesh_for(place.model)):
            _answer(open_answerer(place, flags, lambda line: print(line, file=sys.stderr, flush=True)), left, flags, answers)
    results = [answers.results[row.conversation.key] for row in rows]
    scores = scores_of(results)
    write_scores(pathlib.Path(flags.output), settings, scores)
    tables = [table(scores, flags.metric)]
    if flags.compare:
        _, other = read_answers(pathlib.Path(flags.compare) / ANSWERS)
        differences = differences_of(results, other)
        if not differences:
            raise DataError(f"{flags.compare} has none of these rows: name an evaluation of the same file")
        tables.append(table(differences, f"less {flags.compare}"))
    return tables


def _settings(flags: Flags, file: pathlib.Path, identity: str) -> dict[str, Any]:
    own = {"checkpoint", "output", "compare", "tokens", "media_root"}  # places, and what does not change the answers
    kept = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags) if field.name not in own}
    return kept | {"parameters": identity, "rows": hashlib.sha256(file.read_bytes()).hexdigest()}


def _answer(answerer: Answerer, rows: Sequence[Row], flags: Flags, answers: AnswersFile) -> None:
    metric, options = METRICS[flags.metric], Options(flags.tolerance, flags.pattern)
    documents: list[Document] = []
    for row in progress(rows, len(rows), "reading"):
        try:
            documents.append(answerer.document(row.conversation, flags.max_tokens))
        except SampleError as error:
            raise DataError(str(error)) from error
    batches = answerer.answers(documents, [GREEDY] * len(rows), flags.max_tokens, flags.tokens, flags.blank)
    done = (pair for numbers, texts in batches for pair in _written(rows, numbers, texts, metric, options, answers))
    for _ in progress(done, len(rows), "answered"):
        pass


def _written(
    rows: Sequence[Row], numbers: Sequence[int], texts: Sequence[str], metric: Any, options: Options, answers: AnswersFile
) -> list[Result]:
    results = [
        Result(
            rows[number].conversation.key,
            rows[number].conversation.family,
            text,
            rows[number].answers,
            metric(text, rows[number].answers, options),
        )
        for number, text in zip(numbers, texts, strict=True)
    ]
    answers.add(results)
    return results


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    try:
        flags, operands = read_flags(Flags, arguments, COMMAND)
        if len(operands) != 1:
            raise ConfigError([f"name one file of rows: {COMMAND.example}"])
        for each in evaluate(flags, pathlib.Path(operands[0])):
            print(each)
    except (ConfigError, WeightsError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIGURATION
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return DATA
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
