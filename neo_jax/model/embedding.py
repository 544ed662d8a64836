"""Embedding lookup in a table that is sharded over the devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from neo_jax.sharding import spec


def lookup(table: jax.Array, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the table's rows of tokens, without gathering the table.

    A device holds some channels (axis fsdp) of some rows (axis tensor) of the table. It gathers the tokens of all devices along fsdp, looks up
    its channels of each, and exchanges the results. Only token ids and hidden states are communicated. The gradient of the table is computed by
    the transposed operations, so it is never whole on one device either.

    Args:
      table: [vocabulary, D], sharded as spec("vocabulary", "embed").
      tokens: [B, L] int32.
      dtype: type of the result.

    Returns:
      [B, L, D] in `dtype`.
    """
    mesh = jax.sharding.get_abstract_mesh().shape

    def local(table, tokens):
        table = table.astype(jnp.float32)  # so that its gradient is summed in float32, whatever type the table is stored in
        if mesh["fsdp"] > 1:
            tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        if mesh["tensor"] > 1:
            local_row = tokens - jax.lax.axis_index("tensor") * len(table)
            is_local = (local_row >= 0) & (local_row < len(table))
            x = jnp.where(is_local[..., None], table[jnp.where(is_local, local_row, 0)].astype(dtype), 0)
            x = jax.lax.psum(x, "tensor")
        else:
            x = table[tokens].astype(dtype)
        return jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=2, tiled=True) if mesh["fsdp"] > 1 else x

    inputs = (spec("vocabulary", "embed"), spec("batch", "length"))
    resharded = (jax.sharding.reshard(x, wanted) for x, wanted in zip((table, tokens), inputs, strict=True))
    return jax.shard_map(local, in_specs=inputs, out_specs=spec("batch", "length", None), check_vma=False)(*resharded)
