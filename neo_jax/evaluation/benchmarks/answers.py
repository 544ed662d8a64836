"""What the official kit makes of a model's answers before it scores them: they go through a spreadsheet file."""

from __future__ import annotations

from collections.abc import Sequence

from neo_jax.evaluation.benchmarks.rows import EMPTY_WORDS, Value, typed

END = "<|im_end|>"
MOST_CELL_CHARACTERS = 32_767  # a spreadsheet's cell keeps the first of a longer text

Said = Value


def read_back(predictions: Sequence[str], quirks: bool) -> list[Said]:
    """Returns answers as they are scored: up to `<|im_end|>`, without surrounding white space.

    Args:
      quirks: as the official kit reads them back from its spreadsheet: None for an empty text and words such as None and nan, 0 for a text
        that begins with "=", which becomes a formula, only the first 32,767 characters of a long one; and numbers if all answers are numbers.
    """
    texts = [prediction.split(END)[0].strip() for prediction in predictions]
    if not quirks:
        return list(texts)
    cells = [_cell(text) for text in texts]
    if all(isinstance(cell, str) or cell == 0 for cell in cells):
        as_texts = [str(cell) for cell in cells]
        read = typed(as_texts)
        if not all(isinstance(value, str | None) for value in read):
            return read
    return [None if cell in EMPTY_WORDS else cell for cell in cells]


def _cell(text: str) -> str | int:
    """Returns what a spreadsheet's cell holds of a text."""
    if text.startswith("=") or (text.startswith("{=") and text.endswith("}")):
        return 0
    units = text.encode("utf-16-le", "surrogatepass")[: 2 * MOST_CELL_CHARACTERS]
    return units.decode("utf-16-le", "ignore") if len(text) > MOST_CELL_CHARACTERS // 2 else text


def as_text(said: Said) -> str:
    """Returns an answer as most scores read it: an empty cell is "nan"."""
    return "nan" if said is None else str(said)
