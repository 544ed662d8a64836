"""Rotary position embeddings: of the decoder (t, h and w) and of the patch embedding (two dimensions). Angles are always float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from neo_jax import config

Angles = tuple[jax.Array, jax.Array]  # cosine and sine, each [..., width / 2]


def angles(positions: jax.Array, width: int, theta: float) -> Angles:
    """Returns cosine and sine, [..., width / 2] each, of positions * theta^(-2i / width) for i from 0 to width / 2 - 1.

    Args:
      positions: [...] integers.
      width: number of channels that are rotated; even.
      theta: the rotary base.
    """
    frequencies = theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angle), jnp.sin(angle)


def rope_angles(positions: jax.Array, model: config.Model, spatial: bool) -> tuple[Angles, ...]:
    """Returns the angles of the t part and, if `spatial`, of the h and w parts, for positions [B, L, 3]."""
    t = angles(positions[..., 0], model.head_dim, model.rope_theta)
    if not spatial:
        return (t,)
    return t, *(angles(positions[..., i], model.head_dim // 2, model.rope_theta_hw) for i in (1, 2))


def rotate_halves(x: jax.Array, angles: Angles) -> jax.Array:
    """Rotates channels i and i + width / 2 as a pair, as the decoder does. x: [B, L, heads, width]; angles: [B, L, width / 2]."""
    cosine, sine = (each[:, :, None] for each in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)


def rotate_pairs(x: jax.Array, angles: Angles) -> jax.Array:
    """Rotates channels 2i and 2i + 1 as a pair, as the patch embedding does. x: [..., width]; angles: [..., width / 2]."""
    cosine, sine = angles
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    return jnp.stack([even * cosine - odd * sine, odd * cosine + even * sine], axis=-1).reshape(x.shape).astype(x.dtype)
