"""A NEO from a Qwen3: the same function for a downloaded checkpoint and for the demo's own text model."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from neo_jax import config
from neo_jax.model.backbone import Parameters, abstract, initialise


def neo_from_qwen3(model: config.Model, qwen3: Parameters, seed: int) -> Parameters:
    """Parameters of architecture "neo" from those of architecture "qwen3".

    The base takes over every parameter of the Qwen3. Its new height and width queries start from the first and third quarter of each temporal
    query head, once for height and once for width, its new keys from zero, its new norms from one. Patch embedding and pre-buffer are random
    (normal(0, initializer_range), norms one). As in the official conversion.

    Args:
      qwen3: base layers stacked, as backbone.initialise(model, "qwen3", ...) or interop.names.qwen3_parameters give them.
      seed: of the random parts.
    """
    quarter = model.head_dim // 4
    q = qwen3["base.attention.q"]  # [layers, D, heads, H]
    half = jnp.concatenate([q[..., :quarter], q[..., 2 * quarter : 3 * quarter]], axis=-1)
    taken = qwen3 | {"base.attention.q_hw": jnp.concatenate([half, half], axis=-1)}
    shapes = abstract(model, "neo")
    keys = "base.attention.k_hw"
    new = initialise(model, "neo", seed, shapes.keys() - taken.keys() - {keys})
    new[keys] = jnp.zeros(shapes[keys].shape, shapes[keys].dtype, out_sharding=shapes[keys].sharding)
    return {name: new[name] if name in new else jax.device_put(taken[name], shape.sharding) for name, shape in shapes.items()}
