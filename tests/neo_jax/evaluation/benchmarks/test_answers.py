"""Rules by which answers are read, beyond what the records hold."""

import pytest

from neo_jax.evaluation.benchmarks import mmmu
from neo_jax.evaluation.benchmarks.choices import by_bracket, by_first_word, choose, first_capital
from neo_jax.evaluation.benchmarks.letters import letter_of
from neo_jax.evaluation.benchmarks.numbers import moves_accuracy, number_of, relative_accuracy
from neo_jax.evaluation.benchmarks.yes_no import f1_scores, yes_or_no
from neo_jax.evaluation.vqa import vqa_accuracy

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
        ("< answer >(b)</ answer>", "B"),
        ("<answer>b", "B"),
        ("{b", None),
        ("\uff08b\uff09", "B"),
        ("A+D5.", None),
        ("A-frame D.", "D"),
        ("is it C'", "C"),
        ("b. ", None),
        ("* option A: no\nselect B", "B"),
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
    [
        ("two and 3", 2),
        ("1,200", 1),
        ("80 cm", 80),
        ("<think>4</think> 2.0", 2),
        ("-.5e1", -5),
        ("nothing", None),
        (None, None),
        ("I see 3. <answer>5 m</answer>", 5),
        ("thirteen", None),
        ("two</think> 5", 2),
        ("12</think>", 12),
        ("3<think>12", 12),
        ("3</Think>-4", -4),
        ("[7, 8]", 7),
        ("[x", None),
        ("[x]", None),
        ("[]", None),
    ],
)
def test_numbers(said, number):
    assert number_of(said) == number


def test_relative_accuracy():
    assert relative_accuracy(4, 4) == 1 and relative_accuracy(None, 4) == 0
    assert relative_accuracy(2, 4) == pytest.approx(0.1) and relative_accuracy(0.24, 0) == pytest.approx(0.6)
    assert moves_accuracy("move_left:-1", "move_right:1") == 1
    assert moves_accuracy("move_left:1", "move_right:1") == pytest.approx(0.8)
    assert moves_accuracy("move_right:0.4m,I say move_up:0.2", "move_right:0.4,move_up:0.2,rotate_up:0") == pytest.approx(0.6)
    assert moves_accuracy("move_right:0.4,move_left:0.1", "move_right:0.3") == 1


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
    assert yes_or_no("It is so. " * 40 + "Yes.") == "Unknown"  # full stops behind the first 32 stay


def test_full_stops_beside_digits_stay():
    assert vqa_accuracy("12.", ["12"] * 10) == 0 and vqa_accuracy("twelve.", ["twelve"] * 10) == 1


def test_first_words_brackets_and_capitals():
    assert by_first_word("B\nbecause of the shade that it has there", "B", OPTIONS) == 0
    assert by_first_word("b) not c", "B", OPTIONS) == 1 and by_first_word("blue", "B", OPTIONS) == 0
    assert by_first_word("blue", "C", OPTIONS) == 1 and by_first_word("Failed to obtain answer via API.", "C", OPTIONS) == -1
    assert by_bracket("I say (B) or c)", "B", OPTIONS) == 1 and by_bracket("b", "B", OPTIONS) == 0
    assert by_bracket("Failed to obtain answer via API.", "C", OPTIONS) == -1
    assert first_capital("The answer is ABBA", "ABCD") == "A" and first_capital("Best answer: C", "ABCD") == "B"
    assert first_capital("none", "ABCD") == ""


def test_answers_of_mmmu():
    assert mmmu.chosen("A. or (B)", OPTIONS) == "A" and mmmu.chosen("Answer: A. Answer: C", OPTIONS) == "C"
    assert mmmu.chosen("it may be red or green tea or blue", OPTIONS) == "C" and mmmu.chosen("red", OPTIONS) == mmmu.NOT_FOUND
    assert mmmu.open_answers("so the mass is 1,200 kg") == [1200.0, 200.0, "1,200 kg"] and mmmu.open_answers("42") == [42.0]
    assert mmmu.open_is_right("The answer is 42.", "42") and mmmu.open_is_right("it is dark blue", "Blue")
    assert mmmu.open_answers("it has .5 l") == [0.5, ".5 l"] and mmmu.open_answers("the answer is b") == [" b", "b "]
    assert mmmu.is_empty("I think. Answer: ") and not mmmu.is_empty("Answer: B")
    assert not mmmu.open_is_right("43", "42") and not mmmu.open_is_right("red", "blue")
