"""Pixels to visual tokens: two convolutions whose strides equal their kernels, as matrix products over each token's own 32 x 32 pixels.

Nothing here knows where an image begins or ends: a visual token needs its pixels and its row and column, so no image is padded.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from neo_jax import config
from neo_jax.model.layers import normal, zeros
from neo_jax.model.rope import angles, rotate_pairs
from neo_jax.sharding import spec

PATCH = 16  # pixels of a patch's side
MERGE = 2  # patches of a visual token's side
MEAN = (0.485, 0.456, 0.406)  # ImageNet, as in the reference's preprocessing
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


def normalise(visual: jax.Array) -> jax.Array:
    """uint8 pixels to normalised float32; float32 is taken as normalised already.

    Arithmetic instead of a table of 256 x 3: it differs from the reference by at most 5e-7 and fuses into the matrix product that reads it.

    Args:
      visual: [B, V, 3072], each a 32 x 32 x 3 block (row, column, channel).

    Returns:
      [B, V, 1024, 3] float32, pixels in row-major order.
    """
    pixels = visual.reshape(*visual.shape[:2], (PATCH * MERGE) ** 2, 3)
    if visual.dtype != jnp.uint8:
        return pixels
    return (pixels.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STANDARD_DEVIATION)


class PatchEmbedding(nnx.Module):
    """16 x 16 patches -> `channels` -> exact GELU -> two-dimensional RoPE -> 2 x 2 patches to one token."""

    def __init__(self, model: config.Model, rngs: nnx.Rngs):
        self.theta = model.patch_rope_theta
        self.channels = channels = model.patch_channels
        self.patch = normal(rngs, model, (PATCH, PATCH, 3, channels), (None, None, None, "embed"))  # row, column, colour
        self.patch_bias = zeros((channels,), (None,))
        self.merge = normal(rngs, model, (MERGE, MERGE, channels, model.hidden), (None, None, None, "embed"))  # patch row, patch column
        self.merge_bias = zeros((model.hidden,), (None,))

    def __call__(self, pixels: jax.Array, position: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Embeds visual tokens.

        Args:
          pixels: [B, V, 1024, 3] of `normalise`.
          position: [B, V, 2] int32, row and column of the token in its image, in tokens.
          dtype: compute type.

        Returns:
          [B, V, hidden].
        """
        b, v = pixels.shape[:2]
        patches = pixels.reshape(b, v, MERGE, PATCH, MERGE, PATCH, 3).astype(dtype)
        corners = spec("batch", "length", None, None, None)
        x = jnp.einsum("bvyrxsc,rscd->bvyxd", patches, self.patch[...].astype(dtype), out_sharding=corners)
        x = jax.nn.gelu(x + self.patch_bias[...].astype(dtype), approximate=False)
        row = position[..., 0, None, None] * MERGE + jnp.arange(MERGE)[:, None] + jnp.zeros(MERGE, jnp.int32)  # [B, V, 2, 2], in patches
        column = position[..., 1, None, None] * MERGE + jnp.arange(MERGE) + jnp.zeros((MERGE, 1), jnp.int32)
        by_column, by_row = jnp.split(x, 2, axis=-1)
        by_column = rotate_pairs(by_column, angles(column, self.channels // 2, self.theta))
        by_row = rotate_pairs(by_row, angles(row, self.channels // 2, self.theta))
        x = jnp.concatenate([by_column, by_row], axis=-1)
        x = jnp.einsum("bvyxc,yxcd->bvd", x, self.merge[...].astype(dtype), out_sharding=spec("batch", "length", None))
        return x + self.merge_bias[...].astype(dtype)
