"""The chunked attention against the dense float64 reference, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neo_jax.attention.chunked import chunked_attention
from neo_jax.attention.reference import dense_attention
from tests.neo_jax.programs import largest_array

SMALL = (2, 101, 2, 1)  # rows, length, query heads, key heads: one shape for several tests, so that few programs are compiled


def packed_intervals(length: int, rng: np.random.Generator, longest: int = 40) -> np.ndarray:
    """[length, 2] intervals of a packed row: documents with images of several tokens in them, padding at the end."""
    attend = np.stack([np.arange(length), np.arange(length) + 1], -1)
    start = 0
    end_of_documents = length - int(rng.integers(0, 8))
    while start < end_of_documents:
        end = min(start + int(rng.integers(1, longest)), end_of_documents)
        attend[start:end, 0] = start
        at = start
        while at < end:
            image = min(at + int(rng.integers(1, 12)), end)
            if rng.random() < 0.5:
                attend[at:image, 1] = image
            at = image
        start = end
    return attend.astype(np.int32)


def inputs(rows, length, query_heads, key_heads, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((rows, length, n, w)).astype(dtype) for n, w in ((query_heads, 16), (key_heads, 16), (key_heads, 8)))
    attend = np.stack([packed_intervals(length, rng) for _ in range(rows)])
    gradient = rng.standard_normal((rows, length, query_heads, 8)).astype(dtype)
    return q, k, v, attend[..., 0], attend[..., 1], gradient


@jax.jit
def dense_with_gradients(q, k, v, lo, hi, gradient):
    out, pullback = jax.vjp(lambda *x: dense_attention(*x, lo, hi, 0.3), q, k, v)
    return out, *pullback(gradient)


@functools.partial(jax.jit, static_argnums=6)
def chunked_with_gradients(q, k, v, lo, hi, gradient, chunk):
    out, pullback = jax.vjp(lambda *x: chunked_attention(*x, lo, hi, 0.3, chunk), q, k, v)
    return out, *pullback(gradient)


def reference(q, k, v, lo, hi, gradient):
    with jax.enable_x64(True):
        return [np.asarray(x) for x in dense_with_gradients(q, k, v, lo, hi, gradient)]


def chunked(q, k, v, lo, hi, gradient, chunk, dtype=jnp.float32):
    with jax.default_matmul_precision("highest"):
        q, k, v, gradient = (jnp.asarray(x, dtype) for x in (q, k, v, gradient))
        return [np.asarray(x, np.float64) for x in chunked_with_gradients(q, k, v, lo, hi, gradient, chunk)]


@pytest.mark.parametrize(("chunk", "groups"), [(16, 1), (16, 4), (37, 2), (37, 4), (256, 2)])
def test_equals_the_dense_reference(chunk, groups):
    data = inputs(3, 150, 4, 4 // groups, seed=chunk + groups)
    for ours, theirs in zip(chunked(*data, chunk), reference(*data), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1, np.abs(theirs).max()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([8, 32]))
def test_random_packings(seed, chunk):
    data = inputs(*SMALL, seed)
    for ours, theirs in zip(chunked(*data, chunk), reference(*data), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1, np.abs(theirs).max()))


def test_bfloat16_accumulates_in_float32():
    data = inputs(3, 150, 4, 2, seed=5)
    rounded = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) for x in data[:3]]
    expected = reference(*rounded, *data[3:5], np.asarray(jnp.asarray(data[5], jnp.bfloat16), np.float64))
    for ours, theirs in zip(chunked(*data, 37, jnp.bfloat16), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.03 * np.abs(theirs).max())


def test_a_part_of_the_queries_sees_all_keys():
    """Queries of one shard of a row against the keys of the whole row: intervals are global."""
    q, k, v, lo, hi, gradient = inputs(*SMALL, seed=9)
    part = slice(40, 80)
    ours = chunked(q[:, part], k, v, lo[:, part], hi[:, part], gradient[:, part], 16)[0]
    np.testing.assert_allclose(ours, reference(q, k, v, lo, hi, gradient)[0][:, part], atol=2e-5)


def test_memory_is_linear_in_length():
    def gradient(q, k, v, lo, hi):
        return jax.grad(lambda *x: chunked_attention(*x, lo, hi, 0.3, 64).sum(), argnums=(0, 1, 2))(q, k, v)

    def elements(length):
        heads = [jax.ShapeDtypeStruct((1, length, n, 8), jnp.float32) for n in (2, 1, 1)]
        return largest_array(gradient, *heads, *[jax.ShapeDtypeStruct((1, length), jnp.int32)] * 2)

    assert elements(64 * 64) <= 2 * elements(64 * 32) < 64 * 32 * 64 * 16


def test_untouched_chunks_are_never_read():
    """Keys outside every interval may hold anything, NaN included, when their whole chunk is untouched."""
    q, k, v, lo, hi, gradient = inputs(*SMALL, seed=3)
    lo[:], hi[:] = 32, 64
    k[:, 64:], v[:, 64:], k[:, :32], v[:, :32] = np.nan, np.nan, np.nan, np.nan
    for array in chunked(q, k, v, lo, hi, gradient, 32):
        assert np.isfinite(array).all()
