"""Which tiles of the score matrix the intervals of a row touch: the one planner behind every attention kernel.

Query i sees the keys [lo[i], hi[i]), and neither lo nor hi ever decreases along a row. The keys that a run of queries touches are therefore one
range, and so are the queries that touch a run of keys: a few integers per tile say all, whatever the length.

Rows of a batch are laid end to end (`flatten`): row b's intervals move to the keys [b S, (b + 1) S), which keeps them in order, so that a kernel
knows one long row only and a tile visits no key of another row's tiles.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.batch import Intervals


class TileRanges(NamedTuple):
    """For each tile of one side, the tiles of the other side that it meets. Arrays [tiles] int32.

    Attributes:
      first, last: tiles [first, last) hold at least one attended pair or lie between such tiles. first == last: none.
      full_first, full_last: tiles [full_first, full_last), within [first, last), hold attended pairs only: no mask is needed there.
    """

    first: jax.Array
    last: jax.Array
    full_first: jax.Array
    full_last: jax.Array


def flatten(intervals: Intervals, keys: int, multiple: int) -> Intervals:
    """Intervals [B, L] of rows with `keys` keys each -> [N] of one row with B x keys keys; N is B x L rounded up to a multiple.

    Queries that pad the end repeat the last interval, so that they widen no range. What is computed for them is thrown away.
    """
    lo, hi = intervals
    offset = jnp.arange(lo.shape[0], dtype=jnp.int32)[:, None] * keys
    padding = (0, -lo.size % multiple)
    return Intervals(*(jnp.pad((x + offset).reshape(-1), padding, mode="edge") for x in (lo, hi)))


def query_tiles(lo: jax.Array, hi: jax.Array, query_tile: int, key_tile: int) -> TileRanges:
    """The key tiles that each query tile meets.

    Args:
      lo, hi: [N] int32, non-decreasing, N a multiple of `query_tile`.
    """
    lo, hi = lo.reshape(-1, query_tile), hi.reshape(-1, query_tile)
    first, last = lo[:, 0] // key_tile, _ceil(hi[:, -1], key_tile)
    return _ranges(first, last, _ceil(lo[:, -1], key_tile), hi[:, 0] // key_tile)


def key_tiles(lo: jax.Array, hi: jax.Array, query_tile: int, key_tile: int, keys: int) -> TileRanges:
    """The query tiles that each key tile meets: `query_tiles` transposed.

    Args:
      lo, hi: [N] int32, non-decreasing, N a multiple of `query_tile`.
      keys: number of keys, a multiple of `key_tile`.
    """
    start = jnp.arange(keys // key_tile, dtype=jnp.int32) * key_tile
    end = start + key_tile

    def search(array, value, side):
        return jnp.searchsorted(array, value, side=side, method="scan_unrolled").astype(jnp.int32)

    # A query touches the tile when hi > start and lo < end, and sees all of it when hi >= end and lo <= start.
    touched_from, touched_to = search(hi, start, "right"), search(lo, end, "left")
    first = touched_from // query_tile
    last = jnp.where(touched_from < touched_to, _ceil(touched_to, query_tile), first)
    return _ranges(first, last, _ceil(search(hi, end, "left"), query_tile), search(lo, start, "right") // query_tile)


def visited_pairs(ranges: TileRanges, query_tile: int, key_tile: int) -> jax.Array:
    """Pairs that a kernel computes which visits these tiles whole."""
    return (ranges.last - ranges.first).sum() * query_tile * key_tile


def interval_problem(intervals: Intervals, keys: int, first_row: int = 0, first_query: int = 0) -> str | None:
    """Returns a message naming the first wrong interval of intervals [B, L] over rows of `keys` keys, None if all are right.

    Args:
      first_row, first_query: the place of the first interval in the whole array, where this is a shard of it.
    """
    lo, hi = intervals
    checks = (
        ("is empty: lo must be below hi", lo >= hi),
        (f"leaves the keys [0, {keys})", (lo < 0) | (hi > keys)),
        ("begins before the one in front of it: lo may not decrease along a row", np.diff(lo, axis=1, prepend=lo[:, :1]) < 0),
        ("ends before the one in front of it: hi may not decrease along a row", np.diff(hi, axis=1, prepend=hi[:, :1]) < 0),
    )
    for sentence, wrong in checks:
        if wrong.any():
            row, query = (int(i) for i in np.argwhere(wrong)[0])
            place = f"query {first_query + query} in row {first_row + row}"
            return f"attention: the interval [{lo[row, query]}, {hi[row, query]}) of {place} {sentence}"
    return None


def _ranges(first, last, full_first, full_last) -> TileRanges:
    last = jnp.maximum(first, last)
    full_first = jnp.clip(full_first, first, last)
    return TileRanges(first, last, full_first, jnp.clip(full_last, full_first, last))


def _ceil(value, size):
    return (value + size - 1) // size
