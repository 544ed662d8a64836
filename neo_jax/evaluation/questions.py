"""Answers held-out questions by greedy decoding, once with their images and once with blank images."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import jax

from data_pipelines.documents import Lengths, prompt_document
from data_pipelines.index.lengths import sample_seed
from data_pipelines.schema import DataError, Document, PhaseSettings, Sample, SampleError
from data_pipelines.sources import Source
from data_pipelines.text.marks import words
from data_pipelines.text.tokenizers import Tokenizer
from neo_jax import config
from neo_jax.inference.answering import Answerer, Prompts, blanked
from neo_jax.inference.sampling import GREEDY
from neo_jax.processes import exchange


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
    answerer: Answerer,
    questions: Sequence[Question],
    evaluation: config.Evaluation,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
    """Answers every question twice, the second time with blank images, on the current mesh; returns the answers in the order of the questions.

    Every process is given all questions and returns all answers. Questions without images are answered once.
    """
    seen, shown = len(questions), [number for number, question in enumerate(questions) if len(question.document.visual)]
    documents = [question.document for question in questions] + [questions[number].document for number in shown]
    prompts = Prompts(
        [Lengths(len(each.tokens), len(each.visual), len(each.grids)) for each in documents],
        lambda number: documents[number] if number < seen else blanked(documents[number]),
        [GREEDY] * len(documents),
    )
    texts: dict[int, str] = {}
    for numbers, answers in answerer.answers(prompts, evaluation.answer_tokens, evaluation.tokens):
        texts.update(zip(numbers, answers, strict=True))
        progress(len(texts), len(documents))
    blank = {number: texts[seen + place] for place, number in enumerate(shown)}
    return [Answer(question, texts[number], blank.get(number, texts[number])) for number, question in enumerate(questions)]
