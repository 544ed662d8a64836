"""A NEO from a Qwen3: the same function for a downloaded checkpoint and for the demo's own text model."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from neo_jax import config
from neo_jax.model.backbone import Parameters, initialise


def neo_from_qwen3(model: config.Model, qwen3: Parameters, seed: int) -> Parameters:
    """Parameters of architecture "neo" from those of architecture "qwen3".

    The base takes over every parameter of the Qwen3. Its new height and width queries start from the first and third quarter of each temporal
    query head, once for height and once for width, its new keys from zero, its new norms from one. Patch embedding and pre-buffer are random
    (normal(0, initializer_range), norms one). As in the official conversion.

    Args:
      qwen3: base layers stacked, as backbone.initialise(model, "qwen3", ...) or interop.names.qwen3_parameters give them.
      seed: of the random parts.
    """
    parameters = initialise(model, "neo", seed)
    quarter = model.head_dim // 4
    q = qwen3["base.attention.q"]  # [layers, D, heads, H]
    half = jnp.concatenate([q[..., :quarter], q[..., 2 * quarter : 3 * quarter]], axis=-1)
    new = {
        "base.attention.q_hw": jnp.concatenate([half, half], axis=-1),
        "base.attention.k_hw": jnp.zeros_like(parameters["base.attention.k_hw"]),
    }
    return parameters | {name: jax.device_put(value, parameters[name].sharding) for name, value in (qwen3 | new).items()}
