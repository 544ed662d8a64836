"""Scores answers by exact match."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from neo_jax.evaluation.metrics import Options, exact
from neo_jax.evaluation.questions import Answer
from neo_jax.runs.evaluations import AnswerRecord, EvaluationRecord, FamilyResult


def score(answers: Sequence[Answer]) -> dict[str, FamilyResult]:
    """Returns the scores of each family, in the order of first appearance."""
    families: dict[str, list[Answer]] = {}
    for answer in answers:
        families.setdefault(answer.question.family, []).append(answer)
    return {
        family: FamilyResult(
            len(group),
            sum(exact(a.answer, [a.question.truth], Options()) for a in group) / len(group),
            sum(exact(a.blank_answer, [a.question.truth], Options()) for a in group) / len(group),
            collections.Counter(a.question.truth.strip() for a in group).most_common(1)[0][1] / len(group),
        )
        for family, group in families.items()
    }


def evaluation_record(phase: str, answers: Sequence[Answer], seconds: float) -> EvaluationRecord:
    """Returns the record of a phase's answers.

    Args:
      phase: the phase's name.
      answers: in the order of the questions.
      seconds: time the run has taken until now.
    """
    return EvaluationRecord(
        phase,
        seconds,
        tuple(AnswerRecord(a.question.family, a.question.sample.key, a.question.truth, a.answer, a.blank_answer) for a in answers),
        score(answers),
    )
