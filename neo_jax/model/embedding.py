"""Looking up rows of an embedding table that is spread over the devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from neo_jax.sharding import spec


def lookup(table: jax.Array, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows of a table for tokens, without gathering the table.

    A device holds some channels (axis fsdp) of some rows (axis tensor) of the table. The tokens of all devices along fsdp come to it, it looks up
    its channels of each, and the results are exchanged: what travels is token ids and hidden states. The gradient of the table takes the same
    way back and never exists whole on a device.

    Args:
      table: [vocabulary, D], sharded as spec("vocabulary", "embed").
      tokens: [B, L] int32.
      dtype: of the result.

    Returns:
      [B, L, D].
    """
    mesh = jax.sharding.get_abstract_mesh().shape

    def local(table, tokens):
        table = table.astype(jnp.float32)  # so that its gradient is added up in float32, whatever it is kept in
        if mesh["fsdp"] > 1:
            tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        if mesh["tensor"] > 1:
            own = tokens - jax.lax.axis_index("tensor") * len(table)
            inside = (own >= 0) & (own < len(table))
            x = jnp.where(inside[..., None], table[jnp.where(inside, own, 0)].astype(dtype), 0)
            x = jax.lax.psum(x, "tensor")
        else:
            x = table[tokens].astype(dtype)
        return jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=2, tiled=True) if mesh["fsdp"] > 1 else x

    inputs = (spec("vocabulary", "embed"), spec("batch", "length"))
    placed = (jax.sharding.reshard(x, wanted) for x, wanted in zip((table, tokens), inputs, strict=True))
    return jax.shard_map(local, in_specs=inputs, out_specs=spec("batch", "length", None), check_vma=False)(*placed)
