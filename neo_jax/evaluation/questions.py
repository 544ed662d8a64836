"""Held-out questions answered by greedy decoding: seen, and with blank images."""

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
from neo_jax.inference.generate import greedy
from neo_jax.model.backbone import Parameters
from neo_jax.model.computation import Computation
from neo_jax.processes import exchange
from neo_jax.sharding import own_rows, row_shards, spec, to_devices

BLANK = 127  # the grey of a blank image
LENGTHS = 64  # prompts are padded to multiples of this, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Question:
    """A held-out sample as a prompt, and the right answer."""

    family: str
    sample: Sample
    document: Document
    truth: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said, with and without seeing the images."""

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
    """The first `most` questions of each family that the phase can hold; the last turn of a sample is the answer.

    A sample without a family counts under its source's name. Text-only phases leave out samples with media. Every other sample that is passed
    over is named to `left_out`: source, key, reason, message. `check_stop` is called before each sample; what it raises ends the reading.
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
    """Raises DataError in every process where one could not read a question that another could."""
    mine = [question.sample.key for question in questions]
    for process, theirs in enumerate(exchange.gather(mine)):
        if differing := sorted(set(mine) ^ set(theirs)):
            raise DataError(
                f"process {process} reads other held-out questions than process {jax.process_index()}: {', '.join(differing[:3])}; give all "
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
    """Answers every question twice, the second time with blank images, on the mesh that is set; in the order given.

    Every process is given all questions and returns all answers; each makes the rows that its devices hold.
    """
    order = sorted(range(len(questions)), key=lambda i: len(questions[i].document.tokens))
    special = tokenizer.special
    image_token = special["<IMG_CONTEXT>"]
    banned_ids = tuple(special[name] for name in ("<img>", "</img>", "<IMG_CONTEXT>"))
    banned_ids += tuple(range(tokenizer.vocabulary, model.vocabulary))  # rows of the embedding that no token has
    shards = row_shards()
    size = -(-evaluation.rows // shards) * shards  # every device answers as many
    own = [row for part in own_rows(size) for row in part]
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        documents = [questions[i].document for i in numbers]
        documents += documents[-1:] * (size - len(documents))  # whole batches: one shape
        length = -(-max(len(document.tokens) for document in documents) // LENGTHS) * LENGTHS
        prompts = prompt_inputs([documents[row] for row in own], length, length, image_token)

        def decode(prompts: ModelInputs) -> list[str]:
            tokens = greedy(
                model, computation, parameters, to_devices(prompts), evaluation.answer_tokens, special["<|im_end|>"], banned_ids
            )
            rows = np.asarray(jax.device_get(jax.sharding.reshard(tokens, spec(None, None))))  # every process reads all
            return [tokenizer.decode(_until(row, special["<|im_end|>"])) for row in rows]

        seen = decode(prompts)
        blank = decode(prompts._replace(visual=np.full_like(prompts.visual, BLANK))) if any(len(d.visual) for d in documents) else seen
        for number, answer, blank_answer in zip(numbers, seen, blank, strict=False):
            answers[number] = Answer(questions[number], answer, blank_answer)
        progress(min(start + size, len(order)), len(order))
    return [answers[i] for i in range(len(questions))]


def _until(tokens: np.ndarray, stop: int) -> list[int]:
    ends = np.flatnonzero(tokens == stop)
    return tokens[: ends[0] if len(ends) else None].tolist()
