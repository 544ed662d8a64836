"""Interval attention of one or a few queries a row against a long cache of keys: bound by reading the cache, so that is read once.

The caches of all layers stay as they lie, [N, B, S, K, D]: no copy of a layer's, none with heads first. A loop visits the chunks that any row's
intervals touch, so a cache that is mostly empty costs what its filled part costs. No gradient.

Shape legend as in chunked.py; N layers, B rows, L queries.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from data_pipelines.batch import Intervals
from neo_jax.attention.chunked import LOWEST

CHUNK = 1024  # keys of a chunk
MAX_DECODE_QUERIES = 16  # of a row


def decode_attention(q: jax.Array, k: jax.Array, v: jax.Array, layer: jax.Array | int, intervals: Intervals, scale: float) -> jax.Array:
    """Attention of one layer, in which query i of a row sees the keys [lo[i], hi[i]). The caches k and v are those of all layers."""
    lo, hi = intervals
    b, length, heads, width = q.shape
    keys, key_heads, value_width = k.shape[2], k.shape[3], v.shape[-1]
    groups, size = heads // key_heads, min(CHUNK, keys)
    q_BLKGD = q.reshape(b, length, key_heads, groups, width)

    def key_chunk(j, state):
        maximum, total, accumulator = state
        # The last chunk is moved back to end with the cache; what the one before it covered is masked.
        start = jnp.minimum(j * size, keys - size)
        k_BXKD, v_BXKV = (jax.lax.dynamic_slice(x, (layer, 0, start, 0, 0), (1, b, size, *x.shape[3:]))[0] for x in (k, v))
        scores = _product("blkgd,bxkd->bklgx", q_BLKGD, k_BXKD, _summed_scores) * scale
        position = start + jnp.arange(size)
        mask = (position >= jnp.maximum(lo, j * size)[..., None]) & (position < hi[..., None])
        scores = jnp.where(mask[:, None, :, None], scores, -jnp.inf)
        new_maximum = jnp.maximum(maximum, scores.max(-1))
        correction = jnp.exp(maximum - new_maximum)
        weights = jnp.exp(scores - new_maximum[..., None])
        total = total * correction + weights.sum(-1)
        weighted = _product("bklgx,bxkv->bklgv", weights.astype(v.dtype), v_BXKV, _summed_values)
        return new_maximum, total, accumulator * correction[..., None] + weighted

    shape = (b, key_heads, length, groups)
    start = (jnp.full(shape, LOWEST, jnp.float32), jnp.zeros(shape, jnp.float32), jnp.zeros((*shape, value_width), jnp.float32))
    _, total, accumulator = jax.lax.fori_loop(lo.min() // size, (hi.max() + size - 1) // size, key_chunk, start)
    out_BKLGV = (accumulator / total[..., None]).astype(q.dtype)
    return out_BKLGV.swapaxes(1, 2).reshape(b, length, heads, value_width)


def _product(equation: str, few: jax.Array, cache: jax.Array, summed) -> jax.Array:
    """An einsum in float32; on a CPU `summed` of the same arrays, multiplied and added: its products of few rows are 8 times as slow as that."""

    def product(few, cache):
        return jnp.einsum(equation, few, cache, preferred_element_type=jnp.float32)

    return jax.lax.platform_dependent(few, cache, cpu=lambda *x: summed(*(each.astype(jnp.float32) for each in x)), default=product)


def _summed_scores(q_BLKGD, k_BXKD):
    return (q_BLKGD[:, :, None] * k_BXKD[:, None, :, :, None]).sum(-1).transpose(0, 3, 1, 4, 2)


def _summed_values(weights_BKLGX, v_BXKV):
    return (weights_BKLGX.transpose(0, 2, 4, 1, 3)[..., None] * v_BXKV[:, None, :, :, None]).sum(2).swapaxes(1, 2)
