"""Attention as the model calls it: sharded, one function of (q, k, v, lo, hi)."""

from __future__ import annotations

import jax

from neo_jax.attention.chunked import chunked_attention
from neo_jax.sharding import spec


def chunk_size(length: int) -> int:
    """Queries and keys of a chunk of the XLA path: small where documents are short beside the row, so that little is computed in vain."""
    return max(64, min(256, length // 16))


def interval_attention(q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, scale: float) -> jax.Array:
    """Attention in which query i sees the keys [lo[i], hi[i]) of its row, over whatever mesh is set.

    Queries stay where they are; keys and values are gathered along the `context` axis, since intervals are in global key positions.

    Args:
      q: [B, L, Hq, Dk]; k: [B, S, Hkv, Dk]; v: [B, S, Hkv, Dv], Hq a multiple of Hkv.
      lo, hi: [B, L] int32 with lo < hi.
      scale: factor on the inner products.

    Returns:
      [B, L, Hq, Dv].
    """

    def local(q, k, v, lo, hi):
        k, v = (jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k, v))
        return chunked_attention(q, k, v, lo, hi, scale, chunk_size(q.shape[1]))

    heads, rows = spec("batch", "length", "heads", None), spec("batch", "length")
    lo, hi = (jax.sharding.reshard(x, rows) for x in (lo, hi))  # a slice of one token loses its sharding
    return jax.shard_map(local, in_specs=(heads, heads, heads, rows, rows), out_specs=heads, check_vma=False)(q, k, v, lo, hi)
