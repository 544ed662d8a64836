"""Answers held-out questions by greedy decoding, once with their images and once with blank images."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from data_pipelines.batch import ModelInputs
from data_pipelines.documents import prompt_document
from data_pipelines.index.lengths import sample_seed
from data_pipelines.loading.prompts import prompt_inputs
from data_pipelines.schema import DataError, Document, PhaseSettings, Sample, SampleError
from data_pipelines.sources import Source
from data_pipelines.text.marks import words
from data_pipelines.text.tokenizers import Tokenizer
from neo_jax import config
from neo_jax.inference.batches import prompt_batches
from neo_jax.inference.generate import greedy
from neo_jax.model.backbone import Parameters
from neo_jax.model.computation import Computation
from neo_jax.processes import exchange
from neo_jax.sharding import own_rows, row_shards, to_devices

BLANK = 127  # pixel value of a blank image


@dataclasses.dataclass(frozen=True)
class Question:
    """A held-out sample as a prompt (`document`), and the right answer (`truth`)."""

    family: str
    sample: Sample
    document: Document
    truth: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """The model's answers to a question, with its images and with blank images."""

    question: Question
    answer: str
    blank_answer: str


def read_questions(
    sources: Sequence[Source],
    phase: PhaseSettings,
    tokenizer: Tokenizer,
    seed: int,
    most: int,
    left_out: Callable[[str, str, str, str], None] = lambda source, key, reason, message: None,
    check_stop: Callable[[], None] = lambda: None,
) -> list[Question]:
    """Reads the first questions of each family that fit a row of the phase. The last turn of a sample is the answer.

    A sample without a family counts under its source's name. Text-only phases leave out samples with media.

    Args:
      most: largest number of questions of a family.
      left_out: called with source, key, reason and message of each sample that cannot be used.
      check_stop: called before each sample; an exception from it ends the reading.
    """
    questions: list[Question] = []
    counts: collections.Counter[str] = collections.Counter()
    for source in sources:
        for number in range(len(source)):
            check_stop()
            try:
                sample = source[number]
                family = sample.family or source.name
                if counts[family] >= most or (phase.visual_tokens == 0 and sample.files):
                    continue
                document = prompt_document(sample, phase, tokenizer, sample_seed(seed, source.name, number))
            except SampleError as error:
                left_out(source.name, source.key(number), error.reason, str(error))
                continue
            counts[family] += 1
            questions.append(Question(family, sample, document, words(sample.turns[-1].text)))
    return questions


def check_same(questions: Sequence[Question]) -> None:
    """Raises DataError, in every process, if the processes have read different questions."""
    mine = [question.sample.key for question in questions]
    for process, theirs in enumerate(exchange.gather(mine)):
        if differing := sorted(set(mine) ^ set(theirs)):
            raise DataError(
                f"process {process} reads different held-out questions from process {jax.process_index()}: {', '.join(differing[:3])}; give all "
                "processes the same files"
            )


def answer_questions(
    model: config.Model,
    computation: Computation,
    parameters: Parameters,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    evaluation: config.Evaluation,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
    """Answers every question twice, the second time with blank images, on the current mesh; returns the answers in the order of the questions.

    Every process is given all questions and returns all answers. It prepares only the rows that its devices hold.
    """
    special = tokenizer.special
    image_token, end = special["<IMG_CONTEXT>"], special["<|im_end|>"]
    banned_ids = tuple(special[name] for name in ("<img>", "</img>", "<IMG_CONTEXT>"))
    banned_ids += tuple(range(tokenizer.vocabulary, model.vocabulary))  # rows of the embedding table that belong to no token
    documents = [question.document for question in questions]
    answers: dict[int, Answer] = {}
    for batch in prompt_batches(documents, evaluation.answer_tokens, evaluation.tokens, row_shards()):
        shape = batch.shape
        filled = [*batch.numbers, *[batch.numbers[-1]] * (shape.rows - len(batch.numbers))]  # all batches of a shape have as many rows
        own = [documents[filled[row]] for part in own_rows(shape.rows) for row in part]
        prompts = prompt_inputs(own, shape.length, shape.visual_tokens, image_token)

        def decode(prompts: ModelInputs) -> list[str]:
            tokens = greedy(model, computation, parameters, to_devices(prompts), evaluation.answer_tokens, end, banned_ids)
            return [tokenizer.decode(_until(row, end)) for row in tokens]

        seen = decode(prompts)
        blank = decode(prompts._replace(visual=np.full_like(prompts.visual, BLANK))) if shape.visual_tokens else seen
        for number, answer, blank_answer in zip(batch.numbers, seen, blank, strict=False):
            answers[number] = Answer(questions[number], answer, blank_answer)
        progress(len(answers), len(questions))
    return [answers[number] for number in range(len(questions))]


def _until(tokens: np.ndarray, stop: int) -> list[int]:
    """Returns the tokens before the first `stop`."""
    ends = np.flatnonzero(tokens == stop)
    return tokens[: ends[0] if len(ends) else None].tolist()
