"""Answers held-out questions at the end of a phase."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from data_pipelines.failures import FailurePolicy, Failures
from neo_jax import config
from neo_jax.evaluation.questions import answer_questions, check_same, read_questions
from neo_jax.evaluation.scoring import evaluation_record
from neo_jax.inference.answering import Answerer
from neo_jax.model.backbone import Parameters, abstract
from neo_jax.model.computation import Computation
from neo_jax.processes import exchange
from neo_jax.runs.evaluations import EvaluationError, read_evaluation, write_evaluation
from neo_jax.sharding import make_mesh
from neo_jax.training.console import Progress
from neo_jax.training.inputs import RunData


def evaluate_phase(
    settings: config.Config,
    number: int,
    data: RunData,
    parameters: Parameters,
    seconds: Callable[[], float],
    progress: Progress,
    check_stop: Callable[[], None],
) -> None:
    """Answers held-out questions with the parameters of phase `number`, and writes evaluations/NUMBER-PHASE.json to the run directory.

    Does nothing if that file answers what is asked now; if it answers other questions (limits or held-out files changed), they are asked again.

    Args:
      parameters: parameters after the phase, on any mesh.
      seconds: returns the seconds that the run has taken so far.
      check_stop: called before each question is read and after each batch. An exception from it ends the evaluation; the next start repeats it
        from the beginning.
    """
    phase = settings.phases[number]
    directory = pathlib.Path(settings.run.directory).absolute()
    path = directory / "evaluations" / f"{number:02d}-{phase.name}.json"
    evaluation = settings.evaluation
    last = number == len(settings.phases) - 1
    limit = evaluation.questions if last else evaluation.interim_questions
    asked: dict[str, Any] = {"after_step": settings.phase_ends()[number], "questions": limit, "answer_tokens": evaluation.answer_tokens}
    asked |= {f"held-out source {index.name}": index.digest() for index in data.heldout_indexes}
    answered = exchange.from_first(_answered(path) if exchange.is_first() else None)
    if answered == asked:
        return
    if answered is not None:
        changed = ", ".join(name for name in asked if answered.get(name) != asked[name]) or "held-out sources"
        progress.line(f"{phase.name}: held-out questions are answered again ({changed} changed)")
    log = Failures(directory / "skipped_heldout.jsonl", FailurePolicy(max_rate=1.0))
    left_out = log.name if exchange.is_first() else lambda *_: None  # all processes read the same questions: one log is enough
    questions = read_questions(data.heldout, phase.input(), data.tokenizer, settings.run.seed, limit, left_out, check_stop)
    check_same(questions)

    def show(done: int, total: int) -> None:
        progress.show(f"{phase.name}: {done} of {total} held-out questions answered")
        check_stop()

    with jax.set_mesh(make_mesh(data=-1, fsdp=phase.mesh.fsdp, tensor=phase.mesh.tensor)):
        shapes = abstract(settings.model, phase.architecture)
        on_mesh = {name: jax.device_put(value, shapes[name].sharding) for name, value in parameters.items()}
        computation = Computation.of(phase, settings.run.debug)
        answerer = Answerer(settings.model, computation, on_mesh, data.tokenizer, phase.input())
        answers = answer_questions(answerer, questions, evaluation, show)
    record = dataclasses.replace(evaluation_record(phase.name, answers, seconds()), asked=asked)
    if exchange.is_first():
        write_evaluation(path, record)
    if record.scores:
        mean = np.mean([each.exact_match for each in record.scores.values()])
        progress.line(f"{phase.name}: held-out exact match {mean:.1%} over {len(record.scores)} families, {len(answers)} questions")


def _answered(path: pathlib.Path) -> Mapping[str, Any] | None:
    """Returns what an evaluation record says was asked; None if there is no record, or it cannot be read."""
    try:
        return read_evaluation(path).asked if path.exists() else None
    except EvaluationError:
        return None
