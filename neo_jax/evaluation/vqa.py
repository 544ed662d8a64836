"""VQA accuracy: ten people answered each question, and an answer is right in so far as they agree with it.

The rules are those of the VQA evaluation (Antol et al. 2015), which TextVQA and others use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

AGREEING = 3  # other people who gave the answer make it fully right
MOST_STOPS = 32  # full stops that are removed
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = {word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())}  # noqa: SIM905
NUMBERS["none"] = "0"
ARTICLES = ("a", "an", "the")
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll how's I'd've
    I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've
    something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
    y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905
APOSTROPHES = {
    word[:place] + word[place + 1 :]: word for word in CONTRACTED for place, character in enumerate(word) if character == "'"
}  # a word without one of its apostrophes: with it
APOSTROPHES["somebody'd"] = "somebodyd"  # the other way round in the implementation that the field uses


def without_punctuation(text: str) -> str:
    """Returns a text without punctuation: removed where it stands beside a blank, else replaced by one. Full stops beside a digit stay, and what
    follows the first MOST_STOPS others, as in the implementation that the field uses."""
    without = text
    between_digits = re.search(r"\d,\d", text) is not None
    for mark in PUNCTUATION:
        joined = f"{mark} " in text or f" {mark}" in text or between_digits
        without = without.replace(mark, "" if joined else " ")
    return re.sub(r"(?<!\d)\.(?!\d)", "", without, count=MOST_STOPS)


def normalise(text: str) -> str:
    """Returns an answer without punctuation and articles, in small letters, with digits for the numbers up to ten."""
    without = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBERS.get(word, word) for word in without.lower().split()]
    return " ".join(APOSTROPHES.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Returns the mean over the people of min(1, how many of the others gave this answer / 3)."""
    said, given = normalise(prediction), [normalise(answer) for answer in answers]
    agreeing = given.count(said)
    if len(given) < 2:
        return float(agreeing > 0)
    return sum(min(1.0, (agreeing - (answer == said)) / AGREEING) for answer in given) / len(given)
