"""Held-out questions: which are asked, what the model is shown, what counts as right."""

import io
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines.batch import arrays
from data_pipelines.schema import Media, PhaseSettings, Sample, SampleError, Turn
from data_pipelines.text.tokenizers import load_tokenizer
from neo_jax import config
from neo_jax.evaluation import questions as asking
from neo_jax.evaluation import scoring
from neo_jax.evaluation.metrics import METRICS, Options
from neo_jax.inference import answering
from neo_jax.model.computation import Computation
from neo_jax.runs.evaluations import AnswerRecord, FamilyResult
from neo_jax.sharding import make_mesh
from tests.neo_jax.tiny_model import model

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
PHASE = dict(
    name="p", rows=1, context=256, images=8, segments=8, min_pixels=1024, max_pixels=64 * 64, frames=0, frames_per_second=(1.0, 1.0),
    frame_pixels=1024, mixture={},
)  # fmt: skip
WITH_IMAGES, TEXT_ONLY = PhaseSettings(visual_tokens=64, **PHASE), PhaseSettings(visual_tokens=0, **PHASE)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(GOLDEN / "tokenizer.json", add_special_tokens=True)


def picture(shade: int) -> Media:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32 * (1 + shade % 2)), (shade, 200, 30)).save(buffer, "PNG")
    return Media("picture.png", data=buffer.getvalue())


def sample(key: str, question: str, answer: str, family: str, images: int = 0) -> Sample:
    turns = (Turn("user", "<image>" * images + question), Turn("assistant", answer))
    return Sample(key, turns, tuple(picture(10 + i) for i in range(images)), family=family)


class Source(list):
    """Samples in place of a file; SampleError where an entry is one."""

    name = "held"

    def key(self, number):
        return f"held:{number + 1}"

    def __getitem__(self, number):
        entry = super().__getitem__(number)
        if isinstance(entry, SampleError):
            raise entry
        return entry


def source() -> Source:
    return Source(
        [
            sample("a", "How many?", "three", "count", images=1),
            sample("b", "Say it.", "yes", ""),
            SampleError("bad_json", "b:3 is broken"),
            sample("c", "How many circles are there in this picture?", "two", "count", images=2),
            sample("d", "How many?", "nine", "count", images=1),
            sample("e", "Too long" * 300, "x", "count"),
            sample("f", "Say no.", "no", "words"),
        ]
    )


def test_which_questions_are_asked(tokenizer):
    asked = asking.read_questions([source()], WITH_IMAGES, tokenizer, seed=0, most=2)
    assert [(question.sample.key, question.family, question.truth) for question in asked] == [
        ("a", "count", "three"),
        ("b", "held", "yes"),  # without a family: under its source's name
        ("c", "count", "two"),
        ("f", "words", "no"),
    ]
    named = []
    asking.read_questions([source()], WITH_IMAGES, tokenizer, seed=0, most=2, left_out=lambda *line: named.append(line))
    assert [line[:3] for line in named] == [("held", "held:3", "bad_json")]  # the fifth is not reached: the family has its two
    asking.read_questions([source()], WITH_IMAGES, tokenizer, seed=0, most=9, left_out=lambda *line: named.append(line))
    assert ("held", "held:6", "too_long") in [line[:3] for line in named]
    only_text = asking.read_questions([source()], TEXT_ONLY, tokenizer, seed=0, most=2)
    assert [question.sample.key for question in only_text] == ["b", "f"]
    assert all(question.document.tokens.size and not (question.document.labels != -100).any() for question in asked)


@pytest.fixture
def shown(monkeypatch, tokenizer):
    """Stands in for the model: answers "N yes<|im_end|>junk", N by the sum of the prompt's pixels, and keeps what it was shown."""
    calls = []

    def generate(program, parameters, prompts, samplings, max_tokens):
        (stop,), banned_ids = program.stop_ids, program.banned_ids
        batch = {name: np.asarray(value) for name, value in arrays(prompts)}
        calls.append((batch, {"stop": stop, "banned_ids": banned_ids}))
        answers = np.full((len(batch["tokens"]), max_tokens), stop)
        for row, pixels in enumerate(batch["visual"].astype(np.int64).sum(axis=(1, 2))):
            words = tokenizer.encode(f"{pixels} yes")
            answers[row, : len(words)] = words
            answers[row, len(words) + 1 :] = words[0]  # behind the end: not part of the answer
        return answers

    monkeypatch.setattr(answering, "generate", generate)
    return calls


def answer(questions, tokenizer, tokens):
    settings = model(vocabulary=tokenizer.vocabulary + 7)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        answerer = answering.Answerer(settings, Computation(), {}, tokenizer, WITH_IMAGES)
        return asking.answer_questions(answerer, questions, config.Evaluation(tokens=tokens, answer_tokens=32))


def test_blank_images_change_nothing_but_pixels(tokenizer, shown):
    questions = asking.read_questions([source()], WITH_IMAGES, tokenizer, seed=0, most=5)
    answers = answer(questions, tokenizer, tokens=8 * 96)
    ((batch, options),) = shown
    pixels = batch["visual"].astype(np.int64).sum(axis=(1, 2))
    with_images = sum(len(question.document.visual) > 0 for question in questions)
    assert len(batch["tokens"]) == len(questions) + with_images and batch["visual"].dtype == np.uint8
    for question, each in zip(questions, answers, strict=True):
        assert each.question is question
        own, grey = question.document.visual.astype(np.int64).sum(), answering.BLANK * question.document.visual.size
        assert (each.answer, each.blank_answer) == (f"{own} yes", f"{grey} yes")  # its own pixels, in the order of the questions
        rows = [np.flatnonzero(pixels == value) for value in (own, grey)]
        pairs = [(seen, blank) for seen in rows[0] for blank in rows[1]]
        same = [[np.array_equal(value[seen], value[blank]) for name, value in batch.items() if name != "visual"] for seen, blank in pairs]
        assert any(all(each) for each in same)  # a blank image changes nothing but pixels
    special = tokenizer.special
    banned = {special["<img>"], special["</img>"], special["<IMG_CONTEXT>"], *range(tokenizer.vocabulary, tokenizer.vocabulary + 7)}
    assert options == {"stop": special["<|im_end|>"], "banned_ids": options["banned_ids"]} and set(options["banned_ids"]) == banned


def test_batches_are_whole_and_few_shapes(tokenizer, shown):
    questions = asking.read_questions([source()], WITH_IMAGES, tokenizer, seed=0, most=5)
    answers = answer(questions, tokenizer, tokens=2 * 96)
    assert [each.question.sample.key for each in answers] == ["a", "b", "c", "d", "f"]
    assert {batch["tokens"].shape[0] for batch, _ in shown} == {2}
    assert all(batch["tokens"].shape[1] % 64 == 0 for batch, _ in shown)


def test_questions_without_images_are_asked_once(tokenizer, shown):
    questions = asking.read_questions([source()], TEXT_ONLY, tokenizer, seed=0, most=5)
    answers = answer(questions, tokenizer, tokens=2 * 96)
    assert len(shown) == 1 and all(each.answer == each.blank_answer == "0 yes" for each in answers)


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("red", "red", True),
        (" red\n", "red", True),
        ("red", "red ", True),
        ("Red", "red", False),
        ("red.", "red", False),
        ("", "red", False),
    ],
)
def test_exact_match(said, truth, right):
    assert METRICS["exact"](said, [truth], Options()) == right


def test_score(tokenizer):
    def group(family, truths, said, blank):
        for truth, seen, unseen in zip(truths, said, blank, strict=True):
            yield asking.Answer(asking.Question(family, None, None, truth), seen, unseen)

    answers = [
        *group("shape", ["circle", "square", "circle ", "circle"], ["circle", "circle", "circle", "x"], ["circle", "square", "x", "x"]),
        *group("count", ["1", "2"], ["1", "2"], ["2", "1"]),
    ]
    scores = scoring.score(answers)
    assert list(scores) == ["shape", "count"]
    assert scores["shape"] == FamilyResult(questions=4, exact_match=0.5, blank_exact_match=0.5, majority=0.75)
    assert scores["count"] == FamilyResult(questions=2, exact_match=1.0, blank_exact_match=0.0, majority=0.5)
    assert scoring.score([]) == {}


def test_the_record_of_a_phase():
    sample = Sample("a.jsonl:1", ())
    answer = asking.Answer(asking.Question("shape", sample, None, "circle"), "circle", "square")
    record = scoring.evaluation_record("sft", [answer], 2.0)
    assert record.answers == (AnswerRecord("shape", "a.jsonl:1", "circle", "circle", "square"),)
    assert (record.phase, record.seconds, record.scores) == ("sft", 2.0, scoring.score([answer]))
