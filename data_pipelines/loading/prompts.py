"""Model inputs for prompts: right-aligned rows without labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.batch import ModelInputs, row_intervals, stack
from data_pipelines.loading.rows import layout
from data_pipelines.schema import VISUAL_TOKEN_BYTES, Document


def prompt_inputs(documents: Sequence[Document], length: int, visual_tokens: int, image_token: int) -> ModelInputs:
    """Returns one row for each prompt, aligned to the right end, so that the answers of all rows begin at the same position.

    Args:
      documents: the prompts, each with at most `length` tokens and `visual_tokens` visual tokens.
      length: L, tokens of a row.
      visual_tokens: V, visual tokens of a row.
      image_token: id of `<IMG_CONTEXT>`.
    """
    return stack([_row(number, document, length, visual_tokens, image_token) for number, document in enumerate(documents)])


def _row(number: int, document: Document, length: int, visual_tokens: int, image_token: int) -> ModelInputs:
    n, v = len(document.tokens), len(document.visual)
    if n > length or v > visual_tokens:
        raise ValueError(f"prompt {number} has {n} tokens and {v} visual tokens, the batch holds {length} and {visual_tokens}")
    start = length - n
    placed = layout(document.tokens, document.grids, image_token)
    row = ModelInputs(
        tokens=np.zeros(length, np.int32),
        positions=np.zeros((length, 3), np.int32),
        intervals=row_intervals([placed.intervals], length, start),
        visual_slot=np.full(length, -1, np.int32),
        visual=np.zeros((visual_tokens, VISUAL_TOKEN_BYTES), document.visual.dtype),
        visual_position=np.zeros((visual_tokens, 2), np.int32),
    )
    row.tokens[start:], row.positions[start:], row.visual_slot[start:] = document.tokens, placed.positions, placed.visual_slot
    row.visual[:v], row.visual_position[:v] = document.visual, placed.visual_position
    return row
