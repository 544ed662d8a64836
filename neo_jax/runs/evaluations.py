"""Records of answered held-out questions: one JSON file per phase, in evaluations/ of the run directory."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from data_pipelines.storage import write_whole


class EvaluationError(ValueError):
    """A file is not a valid evaluation record; the message names file and field and says what to do."""


@dataclasses.dataclass(frozen=True)
class AnswerRecord:
    """The answers to one held-out question.

    Attributes:
      family: kind of question.
      key: key of the sample in its source.
      truth: the right answer.
      answer, blank_answer: the model's answers, with the images and with blank images.
    """

    family: str
    key: str
    truth: str
    answer: str
    blank_answer: str


@dataclasses.dataclass(frozen=True)
class FamilyResult:
    """The scores of one family of held-out questions; shares are from 0 to 1.

    Attributes:
      questions: number of questions, at least 1.
      exact_match: share of answers equal to the truth.
      blank_exact_match: the same, with blank images.
      majority: share of the most frequent truth: the exact match of the best constant answer.
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
      seconds: time that the run had taken until then.
      answers: in the order of the questions.
      scores: by family, in the order of first appearance; empty if there were no questions.
      asked: what was asked: limits of questions and answers, digests of the held-out sources. Another start with other ones asks again.
    """

    phase: str
    seconds: float
    answers: tuple[AnswerRecord, ...]
    scores: Mapping[str, FamilyResult]
    asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> EvaluationRecord:
        """Reads what `to_json` wrote. Raises EvaluationError naming a field that is missing or has a wrong type."""
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
            _object(fields.get("asked", {}), "asked"),
        )


def write_evaluation(path: pathlib.Path, record: EvaluationRecord) -> None:
    """Writes a record atomically; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record.to_json(), indent=1) + "\n")


def read_evaluation(path: pathlib.Path) -> EvaluationRecord:
    """Reads a record. Raises EvaluationError if the file cannot be read or is not a record."""
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
    """Returns the records of a run directory in the order of its phases, and a sentence for each file that is not a record."""
    records, problems = [], []
    for path in sorted((directory / "evaluations").glob("*.json")):
        try:
            records.append(read_evaluation(path))
        except EvaluationError as error:
            problems.append(str(error))
    return records, problems


_AGAIN = "if it belongs to the last phase, delete it and start the run again to answer the questions again"


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
