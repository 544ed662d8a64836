"""Dense interval attention: the definition every fast path is tested against. Builds L x S scores; for tests and short rows only.

Shape legend: B rows, L queries, S keys, H query heads, K key heads, G query heads per key head, D key width, V value width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from data_pipelines.batch import Intervals


def dense_attention(q_BLHD: jax.Array, k_BSKD: jax.Array, v_BSKV: jax.Array, intervals: Intervals, scale: float) -> jax.Array:
    """Returns softmax attention [B, L, H, V] in which query i of a row sees the keys [lo[i], hi[i]) of that row.

    H is a multiple of K: consecutive query heads share a key head. Computed in the type of the queries, softmax included.

    Args:
      intervals: [B, L] int32 each, in key positions.
      scale: factor on the inner products.
    """
    b, length, heads, width = q_BLHD.shape
    keys, key_heads = k_BSKD.shape[1:3]
    q_BLKGD = q_BLHD.reshape(b, length, key_heads, heads // key_heads, width)
    scores_BKGLS = jnp.einsum("blkgd,bskd->bkgls", q_BLKGD, k_BSKD) * scale
    position = jnp.arange(keys)
    mask_BLS = (position >= intervals.lo[..., None]) & (position < intervals.hi[..., None])
    weights_BKGLS = jax.nn.softmax(jnp.where(mask_BLS[:, None, None], scores_BKGLS, -jnp.inf), axis=-1)
    return jnp.einsum("bkgls,bskv->blkgv", weights_BKGLS, v_BSKV).reshape(b, length, heads, v_BSKV.shape[-1])
