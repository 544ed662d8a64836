"""Initialises a NEO from a Qwen3: from a downloaded checkpoint, or from the text model that the demo trains."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from neo_jax import config
from neo_jax.model.backbone import Parameters, abstract, initialise


def neo_from_qwen3(model: config.Model, qwen3: Parameters, seed: int) -> Parameters:
    """Returns parameters of architecture "neo" made from those of architecture "qwen3", as in the official conversion.

    The base takes over every parameter of the Qwen3. In each of its layers, the new height queries are the first and third quarter of each
    temporal query head, and so are the new width queries. The new keys are zero, the new norms one. Patch embedding and pre-buffer are random:
    matrices normal(0, initializer_range), norms one.

    Args:
      qwen3: parameters by name, base layers stacked, as from backbone.initialise(model, "qwen3", ...) or interop.load.load.
      seed: seed of the random parts.
    """
    quarter = model.head_dim // 4
    q = qwen3["base.attention.q"]  # [layers, D, heads, H]
    q_half = jnp.concatenate([q[..., :quarter], q[..., 2 * quarter : 3 * quarter]], axis=-1)  # [layers, D, heads, H / 2]
    taken = qwen3 | {"base.attention.q_hw": jnp.concatenate([q_half, q_half], axis=-1)}
    shapes = abstract(model, "neo")
    keys = "base.attention.k_hw"
    new = initialise(model, "neo", seed, shapes.keys() - taken.keys() - {keys})
    new[keys] = jnp.zeros(shapes[keys].shape, shapes[keys].dtype, out_sharding=shapes[keys].sharding)
    return {name: new[name] if name in new else jax.device_put(taken[name], shape.sharding) for name, shape in shapes.items()}
