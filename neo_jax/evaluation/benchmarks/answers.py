"""What the official kit makes of a model's answer before it scores it: the answer goes through a spreadsheet file."""

from __future__ import annotations

from neo_jax.evaluation.benchmarks.rows import EMPTY_WORDS

END = "<|im_end|>"
MOST_CELL_CHARACTERS = 32_767  # a spreadsheet's cell keeps the first of a longer text

Said = str | int | None


def read_back(prediction: str, quirks: bool) -> Said:
    """Returns an answer as it is scored: up to `<|im_end|>`, without surrounding white space.

    Args:
      quirks: as the official kit reads it back from its spreadsheet: None for an empty text and words such as None and nan, 0 for a text
        that begins with "=", which becomes a formula, and only the first 32,767 characters of a long one.
    """
    text = prediction.split(END)[0].strip()
    if not quirks:
        return text
    if text.startswith(("=", "{=")):
        return 0
    text = text[:MOST_CELL_CHARACTERS]
    return None if text in EMPTY_WORDS else text


def as_text(said: Said) -> str:
    """Returns an answer as most scores read it: an empty cell is "nan"."""
    return "nan" if said is None else str(said)
