"""Interval attention in chunks of queries and keys, in plain XLA: memory linear in length, forward and backward.

For each chunk of queries a loop visits only the chunks of keys between the smallest lo and the largest hi of those queries, over all rows of
the call: a chunk that no interval touches is neither read nor computed. Softmax and accumulation are float32 whatever the input type.

Shape legend: B rows, n query chunks, C queries of a chunk, X keys of a chunk, K key heads, G query heads per key head, D key width, V value width.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

LOWEST = -1e30  # start of the running maximum: finite, so that exp(-inf - LOWEST) is 0 and not NaN


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def chunked_attention(q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, scale: float, chunk: int) -> jax.Array:
    """Softmax attention in which query i of a row sees the keys [lo[i], hi[i]) of that row. Arguments as in reference.dense_attention.

    Args:
      chunk: queries, and keys, of a chunk.
    """
    return _forward(q, k, v, lo, hi, scale, chunk)[0]


def _forward(q, k, v, lo, hi, scale, chunk):
    inputs, unsplit = _split(q, k, v, lo, hi, chunk)
    q_nBKCD, k_BKSD, v_BKSV, lo_nBC, hi_nBC, size = inputs
    groups = q.shape[2] // k.shape[2]

    def query_chunk(carry, x):
        q_BKCD, lo_BC, hi_BC = x

        def key_chunk(j, state):
            maximum, total, accumulator = state
            k_BKXD, v_BKXV = _slice(k_BKSD, j, size), _slice(v_BKSV, j, size)
            scores = _scores(q_BKCD, k_BKXD, lo_BC, hi_BC, j, size, groups, scale)
            new_maximum = jnp.maximum(maximum, scores.max(-1))
            correction = jnp.exp(maximum - new_maximum)
            weights = jnp.exp(scores - new_maximum[..., None])
            total = total * correction + weights.sum(-1)
            accumulator = accumulator * correction[..., None] + _matmul(weights.astype(v.dtype), v_BKXV, "bkcx,bkxv->bkcv")
            return new_maximum, total, accumulator

        rows = q_BKCD.shape[:3]
        start = (jnp.full(rows, LOWEST, jnp.float32), jnp.zeros(rows, jnp.float32), jnp.zeros((*rows, v.shape[-1]), jnp.float32))
        maximum, total, accumulator = jax.lax.fori_loop(*_key_chunks(lo_BC, hi_BC, size), key_chunk, start)
        total = jnp.where(total == 0, 1.0, total)  # only queries that pad the last chunk see nothing
        return carry, ((accumulator / total[..., None]).astype(q.dtype), maximum + jnp.log(total))

    _, (out, log_sum) = jax.lax.scan(query_chunk, None, (q_nBKCD, lo_nBC, hi_nBC))
    out = unsplit(out)
    return out, (q, k, v, lo, hi, out, log_sum)


def _backward(scale, chunk, residuals, gradient):
    q, k, v, lo, hi, out, log_sum = residuals
    (q_nBKCD, k_BKSD, v_BKSV, lo_nBC, hi_nBC, size), unsplit = _split(q, k, v, lo, hi, chunk)
    groups = q.shape[2] // k.shape[2]
    delta = jnp.einsum("blhd,blhd->blh", gradient.astype(jnp.float32), out.astype(jnp.float32))
    split = functools.partial(_split_queries, chunks=q_nBKCD.shape[0], size=q_nBKCD.shape[3] // groups, groups=groups)

    def query_chunk(carry, x):
        q_BKCD, g_BKCV, delta_BKC, log_sum_BKC, lo_BC, hi_BC = x

        def key_chunk(j, state):
            dq, dk, dv = state
            k_BKXD, v_BKXV = _slice(k_BKSD, j, size), _slice(v_BKSV, j, size)
            weights = jnp.exp(_scores(q_BKCD, k_BKXD, lo_BC, hi_BC, j, size, groups, scale) - log_sum_BKC[..., None])
            dv = _add(dv, j, size, _matmul(weights.astype(v.dtype), g_BKCV, "bkcx,bkcv->bkxv"))
            dweights = _matmul(g_BKCV, v_BKXV, "bkcv,bkxv->bkcx")
            dscores = (weights * (dweights - delta_BKC[..., None]) * scale).astype(q.dtype)
            dq = dq + _matmul(dscores, k_BKXD, "bkcx,bkxd->bkcd")
            dk = _add(dk, j, size, _matmul(dscores, q_BKCD, "bkcx,bkcd->bkxd"))
            return dq, dk, dv

        start = (jnp.zeros(q_BKCD.shape, jnp.float32), *carry)
        dq, *carry = jax.lax.fori_loop(*_key_chunks(lo_BC, hi_BC, size), key_chunk, start)
        return tuple(carry), dq

    chunks = (q_nBKCD, split(gradient), split(delta[..., None])[..., 0], log_sum, lo_nBC, hi_nBC)
    zeros = (jnp.zeros(k_BKSD.shape, jnp.float32), jnp.zeros(v_BKSV.shape, jnp.float32))
    (dk, dv), dq = jax.lax.scan(query_chunk, zeros, chunks)
    s = k.shape[1]
    dk, dv = (x.swapaxes(1, 2)[:, :s] for x in (dk, dv))
    return unsplit(dq).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


chunked_attention.defvjp(_forward, _backward)


def _split(q, k, v, lo, hi, chunk):
    """Queries in chunks, heads before positions, padded to whole chunks; and the inverse for what has the queries' layout."""
    b, length, hq, _ = q.shape
    s, hkv = k.shape[1:3]
    groups, query_size, key_size = hq // hkv, min(chunk, length), min(chunk, s)
    chunks = math.ceil(length / query_size)
    pad_l, pad_s = chunks * query_size - length, -s % key_size
    # Padded queries have an empty interval that leaves the chunk's smallest lo and largest hi as they are.
    lo = jnp.pad(lo, ((0, 0), (0, pad_l)), constant_values=jnp.iinfo(jnp.int32).max).reshape(b, chunks, query_size).swapaxes(0, 1)
    hi = jnp.pad(hi, ((0, 0), (0, pad_l))).reshape(b, chunks, query_size).swapaxes(0, 1)
    k, v = (jnp.pad(x, ((0, 0), (0, pad_s), (0, 0), (0, 0))).swapaxes(1, 2) for x in (k, v))

    def unsplit(x_nBKCD):
        x = x_nBKCD.reshape(chunks, b, hkv, groups, query_size, -1).transpose(1, 0, 4, 2, 3, 5)
        return x.reshape(b, chunks * query_size, hq, -1)[:, :length]

    return (_split_queries(q, chunks, query_size, groups), k, v, lo, hi, key_size), unsplit


def _split_queries(x, chunks, size, groups):
    """[B, L, Hq, D] -> [n, B, K, G * C, D]."""
    b, length, hq, d = x.shape
    x = jnp.pad(x, ((0, 0), (0, chunks * size - length), (0, 0), (0, 0)))
    x = x.reshape(b, chunks, size, hq // groups, groups, d).transpose(1, 0, 3, 4, 2, 5)
    return x.reshape(chunks, b, hq // groups, groups * size, d)


def _key_chunks(lo_BC, hi_BC, size):
    """First and one past the last chunk of keys that any of these queries sees."""
    return jnp.min(lo_BC) // size, (jnp.max(hi_BC) + size - 1) // size


def _scores(q_BKCD, k_BKXD, lo_BC, hi_BC, j, size, groups, scale):
    scores = _matmul(q_BKCD, k_BKXD, "bkcd,bkxd->bkcx") * scale
    position = j * size + jnp.arange(size)
    mask = (position >= lo_BC[..., None]) & (position < hi_BC[..., None])  # [B, C, X]
    b, heads, _, _ = scores.shape
    scores = jnp.where(mask[:, None, None], scores.reshape(b, heads, groups, -1, size), -jnp.inf)
    return scores.reshape(b, heads, -1, size)


def _matmul(a, b, equation):
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _slice(x_BKSD, j, size):
    return jax.lax.dynamic_slice_in_dim(x_BKSD, j * size, size, axis=2)


def _add(x_BKSD, j, size, update):
    return jax.lax.dynamic_update_slice_in_dim(x_BKSD, _slice(x_BKSD, j, size) + update, j * size, axis=2)
