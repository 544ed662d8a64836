"""The chunked attention against the dense float64 reference, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.batch import Intervals
from neo_jax.attention.api import Kernel, attention_with_lse
from tests.neo_jax.attention.cases import CASES, NAMED, arrays, assert_equal, computed, expected, random_intervals, rounded, with_intervals
from tests.neo_jax.programs import largest_array


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("chunk", [37, 64, 512])
def test_equals_the_dense_reference(case, chunk):
    data = arrays(case, 16, 8)
    assert_equal(computed(Kernel("chunked", chunk), *data), expected(*data), 2e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([8, 32]))
def test_random_packings(seed, chunk):
    rng = np.random.default_rng(seed)
    data = with_intervals(np.stack([random_intervals(101, rng, 40) for _ in range(2)]), 2, 1, 16, 8, seed)
    assert_equal(computed(Kernel("chunked", chunk), *data), expected(*data), 2e-5)


def test_bfloat16_accumulates_in_float32():
    data = rounded(*arrays(NAMED["no multiple of a tile"], 16, 8))
    assert_equal(computed(Kernel("chunked", 37), *data, dtype=jnp.bfloat16), expected(*data), 0.02)


def test_memory_is_linear_in_length():
    def gradient(q, k, v, intervals):
        return jax.grad(lambda *x: attention_with_lse(*x, intervals, 0.3, Kernel("chunked", 64))[0].sum(), argnums=(0, 1, 2))(q, k, v)

    def elements(length):
        heads = [jax.ShapeDtypeStruct((1, length, n, 8), jnp.float32) for n in (2, 1, 1)]
        return largest_array(gradient, *heads, Intervals(*[jax.ShapeDtypeStruct((1, length), jnp.int32)] * 2))

    assert elements(64 * 64) <= 2 * elements(64 * 32) < 64 * 32 * 64 * 16


def test_untouched_chunks_are_never_read():
    """Keys outside every interval of their row may hold anything, NaN included, when their whole chunk is untouched, whatever other rows touch."""
    attend = np.stack([np.tile([[32, 64]], (96, 1)), np.tile([[0, 32]], (96, 1))]).astype(np.int32)
    q, k, v, *rest = with_intervals(attend, 2, 1, 16, 8)
    for x in (k, v):
        x[0, 64:] = x[0, :32] = x[1, 32:] = np.nan
    for array in computed(Kernel("chunked", 32), q, k, v, *rest):
        assert np.isfinite(array).all()
