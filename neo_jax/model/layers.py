"""One decoder layer: THW-decoupled attention and SwiGLU, each behind an RMSNorm.

Shape legend: B rows, L tokens, S keys, D hidden, N query heads, K key heads, H head width, F width of the MLP.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from neo_jax import config
from neo_jax.attention.api import interval_attention
from neo_jax.attention.decoding import FEW
from neo_jax.model.rope import Angles, angles, rotate_halves
from neo_jax.sharding import spec

Cache = tuple[jax.Array, jax.Array]  # keys [B, S, K, 2H] and values [B, S, K, H]


def normal(rngs: nnx.Rngs, model: config.Model, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
    return nnx.Param(model.initializer_range * jax.random.normal(rngs.params(), shape, jnp.float32, out_sharding=spec(*axes)))


def zeros(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, jnp.float32, out_sharding=spec(*axes)))


def ones(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
    return nnx.Param(jnp.ones(shape, jnp.float32, out_sharding=spec(*axes)))


def rms_norm(x: jax.Array, weight: nnx.Param, epsilon: float) -> jax.Array:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis, statistics in float32."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + epsilon)
    return (normed * weight[...]).astype(x.dtype)


def rope_angles(positions: jax.Array, model: config.Model, spatial: bool) -> tuple[Angles, ...]:
    """Cosines and sines of the t part and, where `spatial`, of the h and w parts, for positions [B, L, 3]."""
    t = angles(positions[..., 0], model.head_dim, model.rope_theta)
    if not spatial:
        return (t,)
    return t, *(angles(positions[..., i], model.head_dim // 2, model.rope_theta_hw) for i in (1, 2))


class Attention(nnx.Module):
    """Grouped-query attention whose score is the sum of a temporal, a height and a width inner product.

    The three parts are normalised and rotated each by itself and concatenated, so queries and keys are twice as wide as values.
    Without `spatial` it is Qwen3's attention.
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
            self.q_hw = normal(rngs, model, (d, n, h), ("embed", "heads", None))  # the first half of a head is its height part
            self.k_hw = normal(rngs, model, (d, k, h), ("embed", "heads", None))
            self.q_norm_h, self.q_norm_w = ones((h // 2,), (None,)), ones((h // 2,), (None,))
            self.k_norm_h, self.k_norm_w = ones((h // 2,), (None,)), ones((h // 2,), (None,))

    def __call__(
        self, x, at: tuple[Angles, ...], attend: jax.Array, cache: Cache | None = None, start=0, implementation: str = "auto", pieces=None
    ) -> tuple[jax.Array, Cache]:
        """Attends from x [B, L, D]; with a cache, writes keys and values at `start` and attends to the whole cache."""

        def project(weight):
            return jnp.einsum("bld,dnh->blnh", x, weight[...].astype(x.dtype), out_sharding=spec("batch", "length", "heads", None))

        q = rotate_halves(rms_norm(project(self.q), self.q_norm, self.epsilon), at[0])
        k = rotate_halves(rms_norm(project(self.k), self.k_norm, self.epsilon), at[0])
        v = project(self.v)
        if self.spatial:
            q = jnp.concatenate([q, *self._spatial(project(self.q_hw), self.q_norm_h, self.q_norm_w, at)], axis=-1)
            k = jnp.concatenate([k, *self._spatial(project(self.k_hw), self.k_norm_h, self.k_norm_w, at)], axis=-1)
        if cache is not None:
            k, v = (jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=1) for old, new in zip(cache, (k, v), strict=True))
            if x.shape[1] <= FEW:
                implementation = "decoding"
        out = interval_attention(q, k, v, attend[..., 0], attend[..., 1], self.scale, implementation, pieces)
        o = self.o[...].astype(x.dtype)
        return jnp.einsum("blnh,nhd->bld", out, o, out_sharding=spec("batch", "length", None)), (k, v)

    def _spatial(self, x, norm_h, norm_w, at):
        height, width = jnp.split(x, 2, axis=-1)
        yield rotate_halves(rms_norm(height, norm_h, self.epsilon), at[1])
        yield rotate_halves(rms_norm(width, norm_w, self.epsilon), at[2])


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, model: config.Model, rngs: nnx.Rngs):
        self.gate = normal(rngs, model, (model.hidden, model.mlp), ("embed", "mlp"))
        self.up = normal(rngs, model, (model.hidden, model.mlp), ("embed", "mlp"))
        self.down = normal(rngs, model, (model.mlp, model.hidden), ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up, down = (weight[...].astype(x.dtype) for weight in (self.gate, self.up, self.down))
        wide = spec("batch", "length", "mlp")
        hidden = jax.nn.silu(jnp.einsum("bld,df->blf", x, gate, out_sharding=wide)) * jnp.einsum("bld,df->blf", x, up, out_sharding=wide)
        return jnp.einsum("blf,fd->bld", hidden, down, out_sharding=spec("batch", "length", None))


class Layer(nnx.Module):
    """Pre-norm attention and MLP with residuals."""

    def __init__(self, model: config.Model, spatial: bool, rngs: nnx.Rngs):
        self.epsilon = model.norm_epsilon
        self.attention_norm, self.mlp_norm = ones((model.hidden,), (None,)), ones((model.hidden,), (None,))
        self.attention = Attention(model, spatial, rngs)
        self.mlp = MLP(model, rngs)

    def __call__(self, x, at, attend, cache: Cache | None = None, start=0, implementation="auto", pieces=None) -> tuple[jax.Array, Cache]:
        normed = rms_norm(x, self.attention_norm, self.epsilon)
        attended, cache = self.attention(normed, at, attend, cache, start, implementation, pieces)
        x = x + attended
        return x + self.mlp(rms_norm(x, self.mlp_norm, self.epsilon)), cache
