"""One decoder layer: attention with separate T, H and W parts, then SwiGLU, each preceded by an RMSNorm.

Shape legend: B rows, L tokens, S keys, D hidden, N query heads, K key heads, H head width, F width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from data_pipelines.batch import Intervals
from neo_jax import config
from neo_jax.attention.api import cached_attention, interval_attention
from neo_jax.model.computation import Computation
from neo_jax.model.rope import Angles, rotate_halves
from neo_jax.sharding import spec


class Cache(NamedTuple):
    """Keys and values of the tokens so far; with an axis of layers in front where it belongs to a stack. S: room for tokens.

    Attributes:
      keys: [B, S, K, 2H]; architecture "qwen3": [B, S, K, H].
      values: [B, S, K, H].
    """

    keys: jax.Array
    values: jax.Array


class Context(NamedTuple):
    """The inputs that all layers share, besides the hidden states.

    Attributes:
      angles: rotary angles of the t part; architecture "neo": also of the h and the w part.
      intervals: [B, L] int32 each: the interval of keys that each token attends to, in its row or in the cache.
      pieces: [B, P] int32, as in data_pipelines.batch.ModelInputs.
      only: [B, L] bool: the tokens that the layers change; None: all.
    """

    angles: tuple[Angles, ...]
    intervals: Intervals
    pieces: jax.Array | None = None
    only: jax.Array | None = None

    def keep_others(self, before_BLD: jax.Array, after_BLD: jax.Array) -> jax.Array:
        """Returns the hidden states after a layer, given those before it."""
        return after_BLD if self.only is None else jnp.where(self.only[..., None], after_BLD, before_BLD)


def normal(rngs: nnx.Rngs, model: config.Model, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
    return nnx.Param(model.initializer_range * jax.random.normal(rngs.params(), shape, jnp.float32, out_sharding=spec(*axes)))


def zeros(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, jnp.float32, out_sharding=spec(*axes)))


def ones(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
    return nnx.Param(jnp.ones(shape, jnp.float32, out_sharding=spec(*axes)))


def rms_norm(x: jax.Array, weight: nnx.Param, epsilon: float) -> jax.Array:
    """Returns x / sqrt(mean(x^2) + epsilon) * weight over the last axis, statistics in float32."""
    x32 = x.astype(jnp.float32)
    normalised = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return (normalised * weight[...]).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention whose score is the sum of a temporal, a height and a width inner product.

    Each of the three parts has its own norm and rotary embedding. They are concatenated, so queries and keys are twice as wide as values.
    With `spatial` False there is only the temporal part: the attention of Qwen3.
    """

    def __init__(self, model: config.Model, spatial: bool, rngs: nnx.Rngs):
        d, n, k, h = model.hidden, model.heads, model.kv_heads, model.head_dim
        self.spatial, self.epsilon, self.scale = spatial, model.norm_epsilon, h**-0.5
        self.q = normal(rngs, model, (d, n, h), ("embed", "heads", None))
        self.k = normal(rngs, model, (d, k, h), ("embed", "heads", None))
        self.v = normal(rngs, model, (d, k, h), ("embed", "heads", None))
        self.o = normal(rngs, model, (n, h, d), ("heads", None, "embed"))
        self.q_norm, self.k_norm = ones((h,), (None,)), ones((h,), (None,))
        if spatial:
            self.q_hw = normal(
                rngs, model, (d, n, h), ("embed", "heads", None)
            )  # the first half of a head is its height part, the second its width part
            self.k_hw = normal(rngs, model, (d, k, h), ("embed", "heads", None))
            self.q_norm_h, self.q_norm_w = ones((h // 2,), (None,)), ones((h // 2,), (None,))
            self.k_norm_h, self.k_norm_w = ones((h // 2,), (None,)), ones((h // 2,), (None,))

    @jax.named_scope("attention")
    def __call__(self, x_BLD: jax.Array, context: Context, computation: Computation) -> jax.Array:
        """Returns attention within the row, projected to [B, L, D]."""
        q, k, v = self._project(x_BLD, context.angles)
        out = interval_attention(q, k, v, context.intervals, self.scale, computation.attention, context.pieces, computation.check_intervals)
        return self._output(out)

    def prefill(self, x_BLD: jax.Array, context: Context, computation: Computation) -> tuple[jax.Array, Cache]:
        """The same, and the keys and values of these tokens."""
        q, k, v = self._project(x_BLD, context.angles)
        out = interval_attention(q, k, v, context.intervals, self.scale, computation.attention, None, computation.check_intervals)
        return self._output(out), Cache(k, v)

    def step(
        self, x_BLD: jax.Array, context: Context, computation: Computation, caches: Cache, layer: jax.Array, start: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Writes keys and values of these tokens into the cache of a layer at `start`; returns attention to it, and the caches of all layers."""
        q, k, v = self._project(x_BLD, context.angles)
        caches = Cache(
            *(jax.lax.dynamic_update_slice(old, new[None], (layer, 0, start, 0, 0)) for old, new in zip(caches, (k, v), strict=True))
        )
        return self._output(cached_attention(q, *caches, layer, context.intervals, self.scale, computation.check_intervals)), caches

    def _project(self, x_BLD: jax.Array, angles: tuple[Angles, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries [B, L, N, 2H], keys [B, L, K, 2H] and values [B, L, K, H]; queries and keys have width H if not `spatial`."""

        def project(weight: nnx.Param) -> jax.Array:
            heads = spec("batch", "length", "heads", None)
            return jnp.einsum("bld,dnh->blnh", x_BLD, weight[...].astype(x_BLD.dtype), out_sharding=heads)

        q = rotate_halves(rms_norm(project(self.q), self.q_norm, self.epsilon), angles[0])
        k = rotate_halves(rms_norm(project(self.k), self.k_norm, self.epsilon), angles[0])
        v = project(self.v)
        if self.spatial:
            q = jnp.concatenate([q, *self._spatial(project(self.q_hw), self.q_norm_h, self.q_norm_w, angles)], axis=-1)
            k = jnp.concatenate([k, *self._spatial(project(self.k_hw), self.k_norm_h, self.k_norm_w, angles)], axis=-1)
        return q, k, v

    def _spatial(self, x_BLNH: jax.Array, norm_h: nnx.Param, norm_w: nnx.Param, angles: tuple[Angles, ...]) -> Iterator[jax.Array]:
        """Yields the height part and the width part, [B, L, N, H / 2] each, normalised and rotated."""
        height, width = jnp.split(x_BLNH, 2, axis=-1)
        yield rotate_halves(rms_norm(height, norm_h, self.epsilon), angles[1])
        yield rotate_halves(rms_norm(width, norm_w, self.epsilon), angles[2])

    def _output(self, out_BLNH: jax.Array) -> jax.Array:
        o = self.o[...].astype(out_BLNH.dtype)
        return jnp.einsum("blnh,nhd->bld", out_BLNH, o, out_sharding=spec("batch", "length", None))


class MLP(nnx.Module):
    """SwiGLU: down @ (silu(gate @ x) * (up @ x))."""

    def __init__(self, model: config.Model, rngs: nnx.Rngs):
        self.gate = normal(rngs, model, (model.hidden, model.mlp), ("embed", "mlp"))
        self.up = normal(rngs, model, (model.hidden, model.mlp), ("embed", "mlp"))
        self.down = normal(rngs, model, (model.mlp, model.hidden), ("mlp", "embed"))

    @jax.named_scope("mlp")
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        gate, up, down = (weight[...].astype(x_BLD.dtype) for weight in (self.gate, self.up, self.down))
        sharding_BLF = spec("batch", "length", "mlp")
        gate_BLF = jax.nn.silu(jnp.einsum("bld,df->blf", x_BLD, gate, out_sharding=sharding_BLF))
        hidden_BLF = gate_BLF * jnp.einsum("bld,df->blf", x_BLD, up, out_sharding=sharding_BLF)
        return jnp.einsum("blf,fd->bld", hidden_BLF, down, out_sharding=spec("batch", "length", None))


class Layer(nnx.Module):
    """Attention and MLP, each with a norm before it and a residual connection around it."""

    def __init__(self, model: config.Model, spatial: bool, rngs: nnx.Rngs):
        self.epsilon = model.norm_epsilon
        self.attention_norm, self.mlp_norm = ones((model.hidden,), (None,)), ones((model.hidden,), (None,))
        self.attention = Attention(model, spatial, rngs)
        self.mlp = MLP(model, rngs)

    def __call__(self, x_BLD: jax.Array, context: Context, computation: Computation) -> jax.Array:
        return self._after_attention(x_BLD + self.attention(rms_norm(x_BLD, self.attention_norm, self.epsilon), context, computation))

    def prefill(self, x_BLD: jax.Array, context: Context, computation: Computation) -> tuple[jax.Array, Cache]:
        attended, cache = self.attention.prefill(rms_norm(x_BLD, self.attention_norm, self.epsilon), context, computation)
        return self._after_attention(x_BLD + attended), cache

    def step(
        self, x_BLD: jax.Array, context: Context, computation: Computation, caches: Cache, layer: jax.Array, start: jax.Array
    ) -> tuple[jax.Array, Cache]:
        normalised = rms_norm(x_BLD, self.attention_norm, self.epsilon)
        attended, caches = self.attention.step(normalised, context, computation, caches, layer, start)
        return self._after_attention(x_BLD + attended), caches

    def _after_attention(self, x_BLD: jax.Array) -> jax.Array:
        return x_BLD + self.mlp(rms_norm(x_BLD, self.mlp_norm, self.epsilon))
