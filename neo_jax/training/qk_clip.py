"""QK-clip: keeps attention logits bounded by scaling the weights of the norms of queries and keys.

MuonClip (Kimi K2, arXiv 2507.20534) scales the projections of heads whose largest logit passes a limit. Here queries and keys are normalised, so the
size of their projections does not matter and the norms' weights g bound every logit: after RMSNorm a part of width w has a length of at most
sqrt(w) max|g|, and rotation keeps it. The logit of a layer is therefore at most scale * sum over its parts of w max|g_q| max|g_k|.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from neo_jax.model.backbone import STACKS, Parameters

PARTS = (("q_norm", "k_norm"), ("q_norm_h", "k_norm_h"), ("q_norm_w", "k_norm_w"))


def logit_bounds(parameters: Parameters, stack: str) -> jax.Array:
    """Returns the largest attention logit that the norms of each layer of a stack allow, [layers] float32."""
    head_dim = parameters[f"{stack}.attention.q_norm"].shape[-1]
    bounds = jnp.float32(0)
    for pair in PARTS:
        names = [f"{stack}.attention.{name}" for name in pair]
        if names[0] in parameters:
            query, key = (jnp.abs(parameters[name].astype(jnp.float32)).max(axis=-1) for name in names)
            bounds = bounds + parameters[names[0]].shape[-1] * query * key
    return bounds * head_dim**-0.5


def clip_qk(trainable: Parameters, frozen: Parameters, limit: float) -> Parameters:
    """Returns the trainable parameters with norms of queries and keys scaled down in layers whose logits could pass `limit`.

    Where both norms of a pair train, each is scaled by the square root; where one is frozen, the other by the whole.
    """
    clipped = dict(trainable)
    for stack in STACKS:
        if f"{stack}.attention.q_norm" not in trainable | frozen:
            continue
        factor = jnp.minimum(1.0, limit / logit_bounds(trainable | frozen, stack))[:, None]
        for pair in PARTS:
            own = [name for part in pair if (name := f"{stack}.attention.{part}") in trainable]
            for name in own:
                value = trainable[name]
                clipped[name] = (value * factor ** (1 / len(own))).astype(value.dtype)
    return clipped
