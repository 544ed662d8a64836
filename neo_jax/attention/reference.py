"""Dense interval attention: the definition every fast path is tested against. Builds L x S scores; for tests and short rows only."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dense_attention(q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, scale: float) -> jax.Array:
    """Softmax attention in which query i of a row sees the keys [lo[i], hi[i]) of that row.

    Args:
      q: [B, L, Hq, Dk].
      k: [B, S, Hkv, Dk]; Hq is a multiple of Hkv, consecutive query heads share a key head.
      v: [B, S, Hkv, Dv].
      lo, hi: [B, L] int32 in key positions.
      scale: factor on the inner products.

    Returns:
      [B, L, Hq, Dv] in the type of `q`; computed in the type of `q`, softmax included.
    """
    b, length, hq, dk = q.shape
    s, hkv = k.shape[1:3]
    grouped = q.reshape(b, length, hkv, hq // hkv, dk)
    scores = jnp.einsum("blkgd,bskd->bkgls", grouped, k) * scale
    position = jnp.arange(s)
    mask = (position >= lo[..., None]) & (position < hi[..., None])
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bkgls,bskd->blkgd", weights, v).reshape(b, length, hq, v.shape[-1])
