"""Which option an answer chooses: by a letter that stands alone, or by the text of the option (the official kit's exact matching)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neo_jax.evaluation.benchmarks.answers import Said, as_text

FAILED = "Failed to obtain answer via API"
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
NONE_OF_THEM = "Z"
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
LAST_WORDS = 4  # the letter must first occur among so many last words
OPEN_ANSWER, OTHER_ANSWERS = "A", "B"


def choose(said: Said, options: Mapping[str, str]) -> str:
    """Returns the letter of the option that an answer chooses; "Z" if it chooses none, or several."""
    text = as_text(said)
    return _by_letter(text, options) or _by_text(text, options) or NONE_OF_THEM


def _by_letter(text: str, options: Mapping[str, str]) -> str | None:
    if FAILED in text:
        return None
    if any(refusal in text for refusal in REFUSALS):
        return NONE_OF_THEM
    words = text.translate(_MARKS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - LAST_WORDS:
        return letters[0]
    return NONE_OF_THEM if not letters and NONE_OF_THEM in words else None


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    if len(text) > 2 * sum(map(len, options.values())):
        return None
    found = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return found[0] if len(found) == 1 else None


def open_as_choice(options: Mapping[str, str], key: str) -> tuple[dict[str, str], str]:
    """Returns options and key of a question of MMMU: one without an option A is open, and becomes the choice between its key and others."""
    if OPEN_ANSWER in options:
        return dict(options), key
    as_choice = {OPEN_ANSWER: key, OTHER_ANSWERS: "Other Answers"}
    return as_choice | {letter: text for letter, text in options.items() if letter not in as_choice}, key if _is_letter(
        key
    ) else OPEN_ANSWER


def _is_letter(key: str) -> bool:
    return len(key) == 1 and key.isascii() and key.isupper()


def by_first_word(said: Said, key: str, options: Mapping[str, str]) -> int:
    """Scores MVBench's way: the text before the first blank, without full stops, occurs in "(x)", or "(x)" in it; else the chosen option counts.

    Returns 1 or 0, or -1 for a failed request.
    """
    text = as_text(said)
    if f"{FAILED}." in text:
        return -1
    first, wanted = text.lower().strip().split(" ")[0], f"({key.lower()})"
    return int(first.replace(".", "") in wanted or wanted in first or choose(said, options) == key)


def by_bracket(said: Said, key: str, options: Mapping[str, str]) -> int:
    """Scores MLVU's way: the character before the first ")" or the whole answer is the letter; else the chosen option counts.

    Returns 1 or 0, or -1 for a failed request.
    """
    text = as_text(said)
    if f"{FAILED}." in text:
        return -1
    before = text[: text.find(")")][-1:] if ")" in text else text
    return int(before == key or choose(said, options) == key)


_PHRASES = ("The best answer is", "The correct answer is", "The answer is", "The answer", "Answer:", "Option:")


def first_capital(said: Said, letters: Sequence[str]) -> str:
    """Returns the first of the capital letters in an answer, be it inside a word, behind phrases such as "The answer is"; "" if there is none."""
    text = as_text(said)
    for phrase in _PHRASES:
        text = text.replace(phrase, "")
    return next((character for character in text if character in letters), "")
