"""Metrics: what counts as right, and how much."""

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neo_jax.evaluation.metrics import METRICS, Options, edit_distance
from neo_jax.evaluation.vqa import normalise

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "evaluation"


@pytest.mark.parametrize(
    ("metric", "prediction", "answers", "score"),
    [
        ("exact", " red\n", ["blue", "red"], 1),
        ("exact", "Red", ["red"], 0),
        ("caseless", "A  Red cat.", ["a red cat"], 1),
        ("caseless", "a red hat", ["a red cat"], 0),
        ("relaxed", "104", ["100"], 1),
        ("relaxed", "106", ["100"], 0),
        ("relaxed", "12%", ["0.12"], 1),
        ("relaxed", "1,000", ["1000"], 0),
        ("relaxed", "0.0", ["0"], 0),
        ("relaxed", "Yes", ["yes"], 1),
        ("relaxed", "-95", ["-100"], 1),
        ("anls", "hello world", ["Hello  World"], 1),
        ("anls", "helo", ["hello"], 0.8),
        ("anls", "abcd", ["abxyz", "abcx"], 0.75),
        ("anls", "abc", ["xyzabcde"], 0),
        ("letter", "B", ["B"], 1),
        ("letter", "b.", ["B"], 1),
        ("letter", "(c)", ["C"], 1),
        ("letter", "The answer is B.", ["B"], 1),
        ("letter", "Answer: (D) the dog", ["D"], 1),
        ("letter", "I think it is C", ["C"], 1),
        ("letter", "A dog, so B", ["B"], 1),
        ("letter", "B or C", ["B"], 0),
        ("letter", "It's a dog", ["A"], 0),
        ("letter", "", ["A"], 0),
        ("letter", "B. the dog", ["B"], 1),
        ("number", "There are 1,204 of 3 and 17.", ["17"], 1),
        ("number", "about 18", ["17"], 0),
        ("number", "none", ["17"], 0),
        ("number", "-2.5e3", ["-2500"], 1),
    ],
)
def test_scores(metric, prediction, answers, score):
    assert METRICS[metric](prediction, answers, Options()) == pytest.approx(score)


def test_a_number_within_a_tolerance():
    assert METRICS["number"]("104", ["100"], Options(tolerance=0.05)) == 1
    assert METRICS["number"]("106", ["100"], Options(tolerance=0.05)) == 0
    assert METRICS["number"]("0.04", ["0"], Options(tolerance=0.05)) == 1


def test_a_pattern_finds_the_answer():
    boxed = Options(pattern=r"\\boxed\{(.*?)\}")
    assert METRICS["regex"](r"so \boxed{3}, no: \boxed{ 4 }", ["4"], boxed) == 1
    assert METRICS["regex"]("4", ["4"], boxed) == 0
    assert METRICS["regex"]("say yes", ["yes"], Options(pattern="yes|no")) == 1


def test_vqa_accuracy_is_that_of_the_official_kit():
    recorded = json.loads((GOLDEN / "textvqa" / "scores.json").read_text())
    rows = [row for each in recorded["passes"] for row in each["rows"]]
    assert len(rows) > 20
    for row in rows:
        prediction = str(row["read_back"]) if row.get("read_back") else "nan" if "read_back" in row else row["prediction"]
        assert normalise(prediction) == row["eval_pred"], row
        assert METRICS["vqa"](prediction, row["eval_gt"], Options()) == pytest.approx(row["score"]), row


def test_vqa_accuracy_of_a_single_answer():
    assert METRICS["vqa"]("The dog.", ["a dog"], Options()) == 1 and METRICS["vqa"]("cat", ["a dog"], Options()) == 0


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_the_edit_distance_is_one(a, b, c):
    assert edit_distance(a, a) == 0 and edit_distance(a, b) == edit_distance(b, a)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@pytest.mark.parametrize(("a", "b", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2)])
def test_known_edit_distances(a, b, distance):
    assert edit_distance(a, b) == distance


@pytest.mark.parametrize(("benchmark", "metric"), [("docvqa", "anls"), ("chartqa", "relaxed")])
def test_scores_are_those_of_the_official_kit(benchmark, metric):
    """Recorded scores of awkward predictions (tests/golden/README.md)."""
    recorded = json.loads((GOLDEN / benchmark / "scores.json").read_text())
    rows = [row for each in recorded["passes"] for row in each["rows"] if "eval_pred" in row]
    assert len(rows) > 20
    for row in rows:
        assert METRICS[metric](str(row["eval_pred"]), row["eval_gt"], Options()) == pytest.approx(float(row["score"])), row
