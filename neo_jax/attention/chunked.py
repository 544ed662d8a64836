"""Interval attention in chunks of queries and keys, in plain XLA: memory linear in length, forward and backward.

For each chunk of queries a loop visits only the chunks of keys that their intervals touch: work is in proportion to the attended pairs, row by
row. Softmax and accumulation are float32 whatever the input type.

Shape legend: n query chunks of all rows laid end to end, C queries of a chunk, X keys of a chunk, S keys of all rows, H query heads, K key
heads, G query heads per key head, D key width, V value width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from data_pipelines.batch import Intervals
from neo_jax.attention.intervals import flatten, query_tiles, visited_pairs

LOWEST = -1e30  # start of the running maximum: finite, so that exp(-inf - LOWEST) is 0 and not NaN


def supports(q: jax.Array, k: jax.Array, v: jax.Array) -> str | None:
    """Returns None: all arrays are supported (the kernels return why not)."""
    return None


def forward(q, k, v, intervals: Intervals, scale: float, chunk: int, interpret=False) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, V] and log-sum-exp [B, H, L] (float32, natural logarithm) of q [B, L, H, D], k [B, S, K, D], v [B, S, K, V]."""
    rows = _Rows(q.shape, k.shape, intervals, chunk)
    k_KSD, v_KSV = rows.keys(k), rows.keys(v)

    def query_chunk(carry, x):
        q_KCD, lo_C, hi_C, first, last = x

        def key_chunk(j, state):
            maximum, total, accumulator = state
            k_KXD, v_KXV = rows.slice(k_KSD, j), rows.slice(v_KSV, j)
            scores = rows.scores(q_KCD, k_KXD, lo_C, hi_C, j, scale)
            new_maximum = jnp.maximum(maximum, scores.max(-1))
            correction = jnp.exp(maximum - new_maximum)
            weights = jnp.exp(scores - new_maximum[..., None])
            total = total * correction + weights.sum(-1)
            accumulator = accumulator * correction[..., None] + _matmul(weights.astype(v.dtype), v_KXV, "kcx,kxv->kcv")
            return new_maximum, total, accumulator

        shape = q_KCD.shape[:2]
        start = (jnp.full(shape, LOWEST, jnp.float32), jnp.zeros(shape, jnp.float32), jnp.zeros((*shape, v.shape[-1]), jnp.float32))
        maximum, total, accumulator = jax.lax.fori_loop(first, last, key_chunk, start)
        return carry, ((accumulator / total[..., None]).astype(q.dtype), maximum + jnp.log(total))

    _, (out, lse) = jax.lax.scan(query_chunk, None, (rows.queries(q), *rows.intervals))
    return rows.unsplit(out), rows.unsplit(lse[..., None])[..., 0].swapaxes(1, 2)


def backward(q, k, v, intervals: Intervals, lse, delta, d_out, scale: float, chunk: int, interpret=False) -> tuple[jax.Array, ...]:
    """Gradients of q, k and v.

    Args:
      lse: [B, H, L], of `forward`.
      delta: [B, H, L] float32, the sum over V of output x gradient, less the gradient of the log-sum-exp.
      d_out: [B, L, H, V], gradient of the output.
    """
    rows = _Rows(q.shape, k.shape, intervals, chunk)
    k_KSD, v_KSV = rows.keys(k), rows.keys(v)

    def query_chunk(carry, x):
        q_KCD, g_KCV, lse_KC, delta_KC, lo_C, hi_C, first, last = x

        def key_chunk(j, state):
            dq, dk, dv = state
            k_KXD, v_KXV = rows.slice(k_KSD, j), rows.slice(v_KSV, j)
            weights = jnp.exp(rows.scores(q_KCD, k_KXD, lo_C, hi_C, j, scale) - lse_KC[..., None])
            dv = rows.add(dv, j, _matmul(weights.astype(v.dtype), g_KCV, "kcx,kcv->kxv"))
            dweights = _matmul(g_KCV, v_KXV, "kcv,kxv->kcx")
            dscores = (weights * (dweights - delta_KC[..., None]) * scale).astype(q.dtype)
            dq = dq + _matmul(dscores, k_KXD, "kcx,kxd->kcd")
            dk = rows.add(dk, j, _matmul(dscores, q_KCD, "kcx,kcd->kxd"))
            return dq, dk, dv

        start = (jnp.zeros(q_KCD.shape, jnp.float32), *carry)
        dq, *carry = jax.lax.fori_loop(first, last, key_chunk, start)
        return tuple(carry), dq.astype(q.dtype)

    of_queries = (rows.queries(x.swapaxes(1, 2)[..., None])[..., 0] for x in (lse, delta))
    zeros = (jnp.zeros(k_KSD.shape, jnp.float32), jnp.zeros(v_KSV.shape, jnp.float32))
    chunks = (rows.queries(q), rows.queries(d_out), *of_queries, *rows.intervals)
    (dk, dv), dq = jax.lax.scan(query_chunk, zeros, chunks)
    return rows.unsplit(dq), rows.unkeys(dk, k), rows.unkeys(dv, v)


def computed_pairs(intervals: Intervals, keys: int, chunk: int) -> int:
    """Pairs of a query and a key that the forward pass computes for one head, attended or not; intervals [B, L] over rows of `keys` keys."""
    lo = intervals.lo
    size, key_size = min(chunk, lo.size), min(chunk, lo.shape[0] * keys)
    return int(visited_pairs(query_tiles(*flatten(intervals, keys, size), size, key_size), size, key_size))


class _Rows:
    """The rows of a call as one, heads first, its queries in chunks, padded to whole chunks."""

    def __init__(self, q_shape, k_shape, intervals: Intervals, chunk: int):
        self.rows, self.length, self.heads, _ = q_shape
        _, self.row_keys, self.key_heads, _ = k_shape
        self.groups = self.heads // self.key_heads
        self.size, self.key_size = min(chunk, self.rows * self.length), min(chunk, self.rows * self.row_keys)
        lo, hi = flatten(intervals, self.row_keys, self.size)
        ranges = query_tiles(lo, hi, self.size, self.key_size)
        self.intervals = (lo.reshape(-1, self.size), hi.reshape(-1, self.size), ranges.first, ranges.last)

    def queries(self, x_BLHD):
        """[B, L, H, D] -> [n, K, G * C, D]."""
        x = x_BLHD.reshape(-1, self.key_heads, self.groups, x_BLHD.shape[-1])
        x = jnp.pad(x, ((0, -len(x) % self.size), (0, 0), (0, 0), (0, 0)))
        x = x.reshape(-1, self.size, *x.shape[1:]).transpose(0, 2, 3, 1, 4)
        return x.reshape(*x.shape[:2], -1, x.shape[-1])

    def unsplit(self, x_nKCD):
        """The inverse of `queries`."""
        x = x_nKCD.reshape(*x_nKCD.shape[:2], self.groups, self.size, -1).transpose(0, 3, 1, 2, 4)
        x = x.reshape(-1, self.heads, x.shape[-1])[: self.rows * self.length]
        return x.reshape(self.rows, self.length, self.heads, -1)

    def keys(self, x_BSKD):
        """[B, S, K, D] -> [K, S, D]."""
        x = x_BSKD.reshape(-1, *x_BSKD.shape[2:]).swapaxes(0, 1)
        return jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.key_size), (0, 0)))

    def unkeys(self, x_KSD, like):
        """The inverse of `keys`, in the shape and type of `like`."""
        return x_KSD[:, : self.rows * self.row_keys].swapaxes(0, 1).reshape(like.shape).astype(like.dtype)

    def slice(self, x_KSD, j):
        return jax.lax.dynamic_slice_in_dim(x_KSD, j * self.key_size, self.key_size, axis=1)

    def add(self, x_KSD, j, update):
        return jax.lax.dynamic_update_slice_in_dim(x_KSD, self.slice(x_KSD, j) + update, j * self.key_size, axis=1)

    def scores(self, q_KCD, k_KXD, lo_C, hi_C, j, scale):
        scores = _matmul(q_KCD, k_KXD, "kcd,kxd->kcx") * scale
        position = j * self.key_size + jnp.arange(self.key_size)
        mask = (position >= lo_C[:, None]) & (position < hi_C[:, None])
        grouped = scores.reshape(self.key_heads, self.groups, self.size, self.key_size)
        return jnp.where(mask, grouped, -jnp.inf).reshape(scores.shape)


def _matmul(a, b, equation):
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
