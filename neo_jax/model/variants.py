"""What a token attends to and where it stands in variants of the model that ablations compare: other positions, another mask, an encoder.

The rows are those of NEO-ov; what differs is derived from them on the devices, so that all variants read the same rows from the same index. The
pairs that plans, the balance of rows and utilisation count are those of NEO-ov's mask.

Shape legend: B rows, L tokens of a row (or of the part of it that is decoded), P pieces of a row divided for context shards.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from data_pipelines.batch import Intervals
from neo_jax import config
from neo_jax.sharding import spec


def key_places(length: int, pieces: jax.Array | None, start: jax.Array | int = 0) -> jax.Array:
    """Returns the place of each token among the keys of its row, [1, L] or, with pieces, [B, L].

    Args:
      length: L.
      pieces: [B, P], as in data_pipelines.batch.ModelInputs.
      start: place of the first token, if there are no pieces.
    """
    if pieces is None:
        return start + jnp.arange(length, dtype=jnp.int32)[None]
    of_piece = length // pieces.shape[1]
    first = jnp.argsort(pieces, axis=1).astype(jnp.int32) * of_piece  # the piece that stands at each place
    places = (first[:, :, None] + jnp.arange(of_piece, dtype=jnp.int32)).reshape(len(pieces), length)
    return jax.sharding.reshard(places, spec("batch", "length"))


def varied(model: config.Model, positions: jax.Array, intervals: Intervals, places: jax.Array) -> tuple[jax.Array, Intervals]:
    """Returns positions [B, L, 3] and intervals [B, L] of the model's variant, given those of NEO-ov and the key place of each token."""
    if model.positions == "one_dimensional":
        t = places - intervals.lo
        positions = jnp.stack([t, jnp.zeros_like(t), jnp.zeros_like(t)], axis=-1)
    if model.mask == "causal":
        intervals = Intervals(intervals.lo, jnp.minimum(intervals.hi, places + 1))
    return positions, intervals


def image_intervals(positions: jax.Array, intervals: Intervals, is_visual: jax.Array | None, places: jax.Array, mask: str) -> Intervals:
    """Returns intervals [B, L] in which a visual token attends to its own image alone; every other token attends to itself.

    Args:
      positions, intervals: of NEO-ov, for whole rows in their own order if there are visual tokens.
      is_visual: [B, L] bool; None: no token is.
      places: key place of each token.
      mask: as model.mask: within its image, a token attends to all tokens ("mixed") or to itself and earlier ones ("causal").
    """
    if is_visual is None:
        return Intervals(jnp.broadcast_to(places, intervals.lo.shape), jnp.broadcast_to(places + 1, intervals.lo.shape))
    rows = spec("batch", "length")

    def image_size(positions, end):
        """Returns the tokens of the image that ends before the key `end`: its last token has its last row and column."""
        last = jnp.take_along_axis(positions[..., 1:], jnp.minimum(end - 1, end.shape[1] - 1)[..., None], axis=1)
        return (last + 1).prod(axis=-1)

    sizes = jax.shard_map(image_size, in_specs=(spec("batch", "length", None), rows), out_specs=rows)(positions, intervals.hi)
    lo = jnp.where(is_visual, intervals.hi - sizes, places)
    return Intervals(lo, jnp.where(is_visual & (mask == "mixed"), intervals.hi, places + 1))
