"""Next-token cross-entropy without the full logits: the vocabulary's scores exist for one chunk of tokens at a time."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from neo_jax.sharding import spec

CHUNK = 1024  # tokens of a row whose logits exist at once


def token_losses(hidden: jax.Array, output_matrix: jax.Array, targets: jax.Array, chunk: int = CHUNK) -> jax.Array:
    """Cross-entropy of every position, -log softmax(hidden @ output_matrix.T)[target], in float32.

    The backward pass recomputes a chunk's logits, so memory is chunk x vocabulary, not length x vocabulary.

    Args:
      hidden: [B, L, D] after the last norm.
      output_matrix: [vocabulary, D].
      targets: [B, L] int32.
      chunk: positions of a row at a time.

    Returns:
      [B, L] float32.
    """
    length = hidden.shape[1]
    shards = jax.sharding.get_abstract_mesh().shape["context"]
    local = length // shards
    size = min(chunk, local)
    chunks = math.ceil(local / size)
    matrix = output_matrix.astype(hidden.dtype)

    def of_shard(hidden, matrix, targets):
        pad = chunks * size - local
        hidden, targets = (jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2)) for x in (hidden, targets))
        hidden, targets = (x.reshape(x.shape[0], chunks, size, *x.shape[2:]).swapaxes(0, 1) for x in (hidden, targets))

        @jax.checkpoint
        def of_chunk(_, x):
            hidden, targets = x
            logits = jnp.einsum("bld,vd->blv", hidden, matrix, preferred_element_type=jnp.float32)
            chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
            return None, jax.nn.logsumexp(logits, axis=-1) - chosen

        losses = jax.lax.scan(of_chunk, None, (hidden, targets))[1]
        return losses.swapaxes(0, 1).reshape(-1, chunks * size)[:, :local]

    rows = spec("batch", "length")
    matrix = jax.sharding.reshard(matrix, spec(None, None))
    return jax.shard_map(of_shard, in_specs=(spec("batch", "length", None), spec(None, None), rows), out_specs=rows, check_vma=False)(
        hidden, matrix, targets
    )
