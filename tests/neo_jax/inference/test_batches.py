"""Prompts of any lengths become batches of at most three shapes, within the tokens that are allowed, with little padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.documents import Lengths
from neo_jax.inference.batches import SHAPES, prompt_batches


def prompt(length: int, visual: int = 0) -> Lengths:
    return Lengths(length, visual, int(visual > 0))


def check(prompts, answer_tokens, tokens, shards):
    batches = prompt_batches(prompts, answer_tokens, tokens, shards)
    assert sorted(number for batch in batches for number in batch.numbers) == list(range(len(prompts)))
    assert len({batch.shape for batch in batches}) <= SHAPES
    for batch in batches:
        shape = batch.shape
        assert 0 < len(batch.numbers) <= shape.rows and shape.rows % shards == 0
        assert shape.rows * (shape.length + answer_tokens) <= tokens or shape.rows == shards
        assert shape.length % 64 == 0 and shape.visual_tokens % 64 == 0
        for number in batch.numbers:
            assert prompts[number].tokens <= shape.length and prompts[number].visual_tokens <= shape.visual_tokens
    return batches


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 300)), max_size=60),
    st.integers(1, 200),
    st.integers(1, 20_000),
    st.sampled_from([1, 2, 4]),
)
def test_any_prompts(sizes, answer_tokens, tokens, shards):
    check([prompt(*size) for size in sizes], answer_tokens, tokens, shards)


def test_long_prompts_do_not_lengthen_short_ones():
    """4,000 questions: three quarters short, some long, a few with clips."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(40, 250, 3000), rng.integers(1000, 4200, 900), rng.integers(15_000, 34_000, 100)])
    batches = check([prompt(int(length)) for length in lengths], 64, 524_288, 8)
    padded = sum(batch.shape.rows * (batch.shape.length + 64) for batch in batches)
    assert padded <= 1.6 * (lengths + 64).sum()  # in one shape: 20 times
    assert len({batch.shape for batch in batches}) == 3


@pytest.mark.parametrize(("count", "rows"), [(7, 7), (100, 50), (101, 51)])
def test_rows_are_divided_evenly(count, rows):
    batches = check([prompt(60)] * count, 4, 68 * 60, 1)
    assert {batch.shape.rows for batch in batches} == {rows}


def test_prompts_without_pixels_have_no_room_for_them():
    batches = check([prompt(20)] * 3 + [prompt(900, 800)] * 3, 8, 4000, 1)
    assert {batch.shape.visual_tokens for batch in batches} == {0, 832}


def test_no_prompts():
    assert prompt_batches([], 8, 100) == []
