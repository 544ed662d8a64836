"""Attention over rows that are spread over the devices of the `context` axis: queries stay, keys and values come, a few heads at a time.

Every shard holds pieces of a row (data_pipelines/shards.py). What was gathered is put back into the row's own order, so that intervals go on
naming keys of the whole row and no kernel knows of shards. The backward pass gathers again instead of keeping what was gathered.

Shape legend: B rows, L queries of this shard, S keys of the whole row, P pieces of a row, H query heads, K key heads, D key width, V value width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from data_pipelines.batch import Intervals

AXIS = "context"
GATHERED_BYTES = 256 << 20  # keys and values that one device gathers at once; more heads wait for their turn


def forward(one_device: Callable, q, k, v, intervals: Intervals, pieces) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, V] and log-sum-exp [B, H, L] of this shard's queries.

    Args:
      one_device: (q, k, v, intervals) -> (output, log-sum-exp), with all keys.
      q: [B, L, H, D]; k: [B, L, K, D]; v: [B, L, K, V]: of this shard.
      intervals: [B, L], in keys of the whole row.
      pieces: [B, P], as in data_pipelines.loading.shards.shard_fields; None: shards hold runs of the row, in order.
    """
    results = [one_device(q, gather(k, pieces), gather(v, pieces), intervals) for q, k, v in _groups(q, k, v)]
    outputs, lses = zip(*results, strict=True)
    return _concatenate(outputs, 2), _concatenate(lses, 1)


def backward(one_device: Callable, q, k, v, intervals: Intervals, pieces, lse, delta, d_out) -> tuple[jax.Array, ...]:
    """Gradients of this shard's q, k and v.

    Args:
      one_device: (q, k, v, intervals, lse, delta, d_out) -> gradients of q and of all keys and values.
      lse, delta: [B, H, L].
      d_out: [B, L, H, V], gradient of the output.
    """
    gradients = []
    by_head = (x.swapaxes(1, 2) for x in (lse, delta))  # [B, L, H]
    for queries, keys, values, *sums, d_queries_out in _groups(q, k, v, *by_head, d_out):
        backwards = (x.swapaxes(1, 2) for x in sums)
        dq, dk, dv = one_device(queries, gather(keys, pieces), gather(values, pieces), intervals, *backwards, d_queries_out)
        gradients.append((dq, _scatter(dk, pieces), _scatter(dv, pieces)))
    return tuple(_concatenate(each, 2) for each in zip(*gradients, strict=True))


def gather(x: jax.Array, pieces: jax.Array | None) -> jax.Array:
    """This shard's part of a row [B, L, ...] -> the whole row [B, S, ...], in its own order."""
    return _reorder(jax.lax.all_gather(x, AXIS, axis=1, tiled=True), pieces)


def _scatter(x: jax.Array, pieces: jax.Array | None) -> jax.Array:
    """`gather` transposed: the sum over all shards of [B, S, ...], of which each keeps its part."""
    back = None if pieces is None else jnp.argsort(pieces, axis=1)
    return jax.lax.psum_scatter(_reorder(x, back), AXIS, scatter_dimension=1, tiled=True)


def _reorder(x: jax.Array, pieces: jax.Array | None) -> jax.Array:
    """Piece p of the result is piece pieces[p] of x [B, S, ...]."""
    if pieces is None:
        return x
    count = pieces.shape[1]
    split = x.reshape(x.shape[0], count, x.shape[1] // count, *x.shape[2:])
    return jax.vmap(lambda row, places: row.at[places].get(mode="promise_in_bounds", unique_indices=True))(split, pieces).reshape(x.shape)


def _groups(q, k, v, *of_queries) -> Iterator[tuple[jax.Array, ...]]:
    """q, k, v and other arrays of queries [B, L, H, ...], divided into groups of heads that may be gathered at once."""
    heads = k.shape[2]
    shards = jax.lax.axis_size(AXIS)
    of_head = shards * (k.nbytes + v.nbytes) // heads
    groups = next(n for n in range(1, heads + 1) if heads % n == 0 and (heads // n * of_head <= GATHERED_BYTES or n == heads))
    return zip(*(jnp.split(x, groups, axis=2) for x in (q, k, v, *of_queries)), strict=True)


def _concatenate(parts, axis: int) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=axis)
