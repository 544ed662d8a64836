"""Prompts stand at the right end of their rows."""

import numpy as np
import pytest

from data_pipelines.loading.prompts import prompt_inputs
from data_pipelines.loading.rows import layout
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, Document

IMAGE, LENGTH, VISUAL = 90, 24, 12


def prompts() -> list[Document]:
    rng = np.random.default_rng(1)
    made = []
    for text, grid in ((10, [[2, 3], [2, 2]]), (7, [[2, 5]]), (9, [])):
        grids = np.array(grid, np.int32).reshape(-1, 2)
        count = int(grids.prod(axis=1).sum())
        tokens = np.concatenate([rng.integers(0, IMAGE, 3), np.full(count, IMAGE), rng.integers(0, IMAGE, text - 3)]).astype(np.int32)
        pixels = rng.integers(0, 256, (count, VISUAL_TOKEN_BYTES), dtype=np.uint8)
        made.append(Document(tokens, np.full_like(tokens, NO_LABEL), grids, pixels))
    return made


def test_prompts_stand_at_the_right_end():
    inputs = prompt_inputs(prompts(), LENGTH, VISUAL, IMAGE)
    attend = np.stack(inputs.intervals, axis=-1)
    for row, prompt in enumerate(prompts()):
        n, alone = len(prompt.tokens), layout(prompt.tokens, prompt.grids, IMAGE)
        np.testing.assert_array_equal(inputs.tokens[row, LENGTH - n :], prompt.tokens)
        np.testing.assert_array_equal(inputs.positions[row, LENGTH - n :], alone.positions)
        np.testing.assert_array_equal(attend[row, LENGTH - n :], np.stack(alone.intervals, -1) + LENGTH - n)
        padding = np.arange(LENGTH - n)
        np.testing.assert_array_equal(attend[row, : LENGTH - n], np.stack([padding, padding + 1], -1))  # sees itself alone
        assert (inputs.visual_slot[row, : LENGTH - n] == -1).all()
        np.testing.assert_array_equal(inputs.visual[row, : len(prompt.visual)], prompt.visual)


def test_a_prompt_that_does_not_fit():
    with pytest.raises(ValueError, match="prompt 0 has 20 tokens and 10 visual tokens, the batch holds 19 and 12"):
        prompt_inputs(prompts(), 19, VISUAL, IMAGE)
    with pytest.raises(ValueError, match="prompt 0"):
        prompt_inputs(prompts(), LENGTH, 9, IMAGE)
