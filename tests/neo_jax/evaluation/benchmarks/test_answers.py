"""Rules by which answers are read, beyond what the records hold."""

import pytest

from neo_jax.evaluation.benchmarks import mmmu
from neo_jax.evaluation.benchmarks.choices import by_bracket, by_first_word, choose, first_capital
from neo_jax.evaluation.benchmarks.letters import letter_of
from neo_jax.evaluation.benchmarks.numbers import moves_accuracy, number_of, relative_accuracy
from neo_jax.evaluation.benchmarks.yes_no import f1_scores, yes_or_no

OPTIONS = {"A": "red", "B": "green tea", "C": "blue"}


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("(B).", "B"),
        ("It is B, I think", "B"),
        ("B is the right one of all", "Z"),
        ("A and B", "Z"),
        ("green tea!", "B"),
        ("Z", "Z"),
        ("Failed to obtain answer via API. red", "Z"),
        ("Failed to obtain answer via API", "Z"),
        (None, "Z"),
        (0, "Z"),
    ],
)
def test_options(said, letter):
    assert choose(said, OPTIONS) == letter


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("<answer>b: the dog</answer> or C", "B"),
        ("<think>A</think>\nI say\n\nC.", "A"),
        ("a long way\n<think>it was so\nB", "B"),
        ("Option A: no\nOption B: yes", None),
        ("First A.\nthen **C**\nOption D: none", "C"),
        ("the final answer: d", "D"),
        ("\u6b63\u786e\u7b54\u6848\u662f\uff1aC", "C"),
        ("\u200bB\u200b", "B"),
        ("Because of the shade: B/", "B"),
        ("ABC", None),
        ("", None),
        (None, None),
    ],
)
def test_letters(said, letter):
    assert letter_of(said) == letter


@pytest.mark.parametrize(
    ("said", "number"),
    [("two and 3", 2), ("1,200", 1), ("80 cm", 80), ("<think>4</think> 2.0", 2), ("-.5e1", -5), ("nothing", None), (None, None)],
)
def test_numbers(said, number):
    assert number_of(said) == number


def test_relative_accuracy():
    assert relative_accuracy(4, 4) == 1 and relative_accuracy(None, 4) == 0
    assert relative_accuracy(2, 4) == pytest.approx(0.1) and relative_accuracy(0.24, 0) == pytest.approx(0.6)
    assert moves_accuracy("move_left:-1", "move_right:1") == 1
    assert moves_accuracy("move_left:1", "move_right:1") == pytest.approx(0.8)


def test_yes_and_no():
    assert [yes_or_no(said) for said in ("Yes, indeed", "no-one", "yes or no", "**Yes**", None)] == [
        "Yes",
        "No",
        "Unknown",
        "Unknown",
        "Unknown",
    ]
    scores = f1_scores(["Yes", "Yes", "Unknown", "No"], ["Yes", "No", "No", "Yes"])
    assert scores == {"Overall": 50, "acc": 25, "precision": 50, "recall": 50}


def test_first_words_brackets_and_capitals():
    assert by_first_word("b) not c", "B", OPTIONS) == 1 and by_first_word("blue", "B", OPTIONS) == 0
    assert by_first_word("blue", "C", OPTIONS) == 1 and by_first_word("Failed to obtain answer via API", "C", OPTIONS) == -1
    assert by_bracket("I say (B) or c)", "B", OPTIONS) == 1 and by_bracket("b", "B", OPTIONS) == 0
    assert by_bracket("Failed to obtain answer via API", "C", OPTIONS) == -1
    assert first_capital("The answer is ABBA", "ABCD") == "A" and first_capital("Best answer: C", "ABCD") == "B"
    assert first_capital("none", "ABCD") == ""


def test_answers_of_mmmu():
    assert mmmu.chosen("A. or (B)", OPTIONS) == "A" and mmmu.chosen("Answer: A. Answer: C", OPTIONS) == "C"
    assert mmmu.chosen("it may be red or green tea or blue", OPTIONS) == "C" and mmmu.chosen("red", OPTIONS) == mmmu.NOT_FOUND
    assert mmmu.open_answers("so the mass is 1,200 kg") == [1200.0, "1,200 kg"] and mmmu.open_answers("42") == [42.0]
    assert mmmu.open_is_right("The answer is 42.", "42") and mmmu.open_is_right("it is dark blue", "Blue")
    assert not mmmu.open_is_right("43", "42") and not mmmu.open_is_right("red", "blue")
