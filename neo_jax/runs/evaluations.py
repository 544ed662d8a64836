"""The record of the held-out questions that a phase's model answered: one JSON file a phase, in evaluations/ of the run directory."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from data_pipelines.storage import write_whole


class EvaluationError(ValueError):
    """A file that is not an evaluation record; the message is one sentence: which file, which field, what to do."""


@dataclasses.dataclass(frozen=True)
class AnswerRecord:
    """One held-out question as it was answered.

    Attributes:
      family: kind of question.
      key: of the sample, in its source.
      truth: the right answer.
      answer, blank_answer: the model's, with the images and with blank ones.
    """

    family: str
    key: str
    truth: str
    answer: str
    blank_answer: str


@dataclasses.dataclass(frozen=True)
class FamilyResult:
    """How one family of held-out questions was answered; shares from 0 to 1.

    Attributes:
      questions: how many were asked, at least 1.
      exact_match: share of answers equal to the truth.
      blank_exact_match: the same with every image blank.
      majority: share of the most frequent truth: what a constant answer reaches.
    """

    questions: int
    exact_match: float
    blank_exact_match: float
    majority: float


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
    """The held-out answers after a phase.

    Attributes:
      phase: the phase's name.
      seconds: time the run had taken until then.
      answers: in the order of the questions.
      scores: by family, in the order of first appearance; empty where nothing was asked.
    """

    phase: str
    seconds: float
    answers: tuple[AnswerRecord, ...]
    scores: Mapping[str, FamilyResult]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> EvaluationRecord:
        """Raises EvaluationError naming the field that is missing or of a wrong type."""
        fields = _object(values, "the record")
        answers = fields.get("answers")
        if not isinstance(answers, list):
            raise EvaluationError("field answers must be a list")
        scores = _object(fields.get("scores"), "scores")
        return cls(
            _text(fields, "phase", ""),
            _number(fields, "seconds", ""),
            tuple(_answer(answer, f"answers[{place}]") for place, answer in enumerate(answers)),
            {family: _family(score, f"scores[{family!r}]") for family, score in scores.items()},
        )


def write_evaluation(path: pathlib.Path, record: EvaluationRecord) -> None:
    """Writes a record, whole or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record.to_json(), indent=1) + "\n")


def read_evaluation(path: pathlib.Path) -> EvaluationRecord:
    """Raises EvaluationError for a file that cannot be read or is not a record."""
    try:
        return EvaluationRecord.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror})") from None
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}; {_AGAIN}") from None
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{path}, line {error.lineno}: not JSON ({error.msg}); {_AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path} is not JSON ({error}); {_AGAIN}") from None


def read_evaluations(directory: pathlib.Path) -> tuple[list[EvaluationRecord], list[str]]:
    """The records of a run directory in the order of its phases, and a sentence for each file that is not one."""
    records, problems = [], []
    for path in sorted((directory / "evaluations").glob("*.json")):
        try:
            records.append(read_evaluation(path))
        except EvaluationError as error:
            problems.append(str(error))
    return records, problems


_AGAIN = "delete it and start the run again to answer its questions anew, if it was the last phase's"


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EvaluationError(f"{name} must be a JSON object")
    return value


def _text(values: dict[str, Any], field: str, where: str) -> str:
    if not isinstance(values.get(field), str):
        raise EvaluationError(f"field {where}{field} must be a text")
    return values[field]


def _number(values: dict[str, Any], field: str, where: str, most: float = math.inf) -> float:
    value = values.get(field)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most or not math.isfinite(value):
        raise EvaluationError(f"field {where}{field} must be a number from 0" + (f" to {most:g}" if most < math.inf else ""))
    return value


def _answer(value: Any, where: str) -> AnswerRecord:
    fields = _object(value, where)
    return AnswerRecord(**{field.name: _text(fields, field.name, f"{where}.") for field in dataclasses.fields(AnswerRecord)})


def _family(value: Any, where: str) -> FamilyResult:
    fields = _object(value, where)
    questions = fields.get("questions")
    if not isinstance(questions, int) or isinstance(questions, bool) or questions < 1:
        raise EvaluationError(f"field {where}.questions must be a whole number of at least 1")
    shares = {name: _number(fields, name, f"{where}.", 1) for name in ("exact_match", "blank_exact_match", "majority")}
    return FamilyResult(questions, **shares)
