"""Patch embedding: pixels to visual tokens.

Two convolutions whose strides equal their kernel sizes, computed as matrix products over the 32 x 32 pixels of each visual token. A token depends
only on its own pixels, row and column, so images of any size are processed together without padding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from neo_jax import config
from neo_jax.model.layers import normal, zeros
from neo_jax.model.rope import angles, rotate_pairs
from neo_jax.sharding import spec

PATCH = 16  # side of a patch, in pixels
MERGE = 2  # side of a visual token, in patches
MEAN = (0.485, 0.456, 0.406)  # ImageNet, as in the reference's preprocessing
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


def normalise(visual: jax.Array) -> jax.Array:
    """Returns pixels with ImageNet's mean and standard deviation normalised to 0 and 1. float32 input counts as normalised already.

    Computed, not looked up in a table of 256 x 3: the compiler fuses it into the matrix product that reads it. It differs from the reference by at
    most 5e-7.

    Args:
      visual: [B, V, 3072] uint8 or float32; each visual token is a 32 x 32 x 3 block (row, column, channel).

    Returns:
      [B, V, 1024, 3] float32, pixels in row-major order.
    """
    pixels = visual.reshape(*visual.shape[:2], (PATCH * MERGE) ** 2, 3)
    if visual.dtype != jnp.uint8:
        return pixels
    return (pixels.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STANDARD_DEVIATION)


class PatchEmbedding(nnx.Module):
    """Convolution of 16 x 16 pixels to `channels`, exact GELU, two-dimensional RoPE, convolution of 2 x 2 patches to one visual token."""

    def __init__(self, model: config.Model, rngs: nnx.Rngs):
        self.theta = model.patch_rope_theta
        self.channels = channels = model.patch_channels
        self.patch = normal(rngs, model, (PATCH, PATCH, 3, channels), (None, None, None, "embed"))  # row, column, colour
        self.patch_bias = zeros((channels,), (None,))
        self.merge = normal(rngs, model, (MERGE, MERGE, channels, model.hidden), (None, None, None, "embed"))  # patch row, patch column
        self.merge_bias = zeros((model.hidden,), (None,))

    @jax.named_scope("patch_embedding")
    def __call__(self, pixels: jax.Array, position: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Embeds visual tokens.

        Args:
          pixels: [B, V, 1024, 3] float32, from `normalise`.
          position: [B, V, 2] int32: row and column of the visual token in its image, counted in visual tokens.
          dtype: compute type.

        Returns:
          [B, V, hidden] in `dtype`.
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
