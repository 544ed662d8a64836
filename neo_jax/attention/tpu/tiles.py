"""The tiles that the kernels visit: rows laid end to end, and the list of tiles that the intervals touch, prefetched as scalars.

A listed tile says its row and column, whether it lies inside every interval or is cut by an edge, and whether it is the first or last of its row."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.batch import Intervals
from neo_jax.attention.intervals import TileRanges, flatten, key_tiles, query_tiles

LANES = 128
# Bits of a listed tile: row << ROW_SHIFT | column << COLUMN_SHIFT | kind << 2 | last << 1 | first.
COLUMN_SHIFT, ROW_SHIFT = 4, 18
MAX_ROWS, MAX_COLUMNS = 1 << (31 - ROW_SHIFT), 1 << (ROW_SHIFT - COLUMN_SHIFT)
MAX_TILES = 1 << 16  # 256 KiB of scalar memory
NOTHING, WHOLE, MASKED, SPARSE = range(4)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes in tokens, each a multiple of 128.

    Attributes:
      query, key: of a tile.
      compute: keys of a tile that are computed at once.
      square: side of the squares that a tile is divided into where an edge cuts it.
      sparse: the largest share of a tile's squares for which only they are computed, strip by strip; above it the whole tile is, with a mask.
    """

    query: int = 1024
    key: int = 1024
    compute: int = 512
    square: int = 256
    sparse: float = 0.65

    def __post_init__(self) -> None:
        for name in ("query", "key", "compute", "square"):
            size = getattr(self, name)
            if size < LANES or size % LANES:
                raise ValueError(f"blocks.{name} is {size}, must be a multiple of {LANES}")
        if self.key % self.compute or self.key % self.square or self.query % self.square:
            raise ValueError(f"{self}: compute and square must divide key, and square must divide query")

    def for_lengths(self, queries: int, keys: int) -> Blocks:
        """The same, no larger than rows of these lengths need."""
        query, key = (min(size, -(-length // self.square) * self.square) for size, length in ((self.query, queries), (self.key, keys)))
        compute = self.compute if key % self.compute == 0 else self.square
        return dataclasses.replace(self, query=query, key=key, compute=compute)


def computed_pairs(intervals: Intervals, keys: int, blocks: Blocks) -> int:
    """Pairs of a query and a key that the forward pass computes for one head, attended or not; intervals [B, L] over rows of `keys` keys."""
    plan = TilePlan(intervals.lo.shape, (len(intervals.lo), keys), intervals, blocks)
    steps, count, squares = (np.asarray(x) for x in plan.of_queries())
    steps, blocks = steps[:count], plan.blocks
    kind = (steps >> 2) & 3
    total = int(((kind == WHOLE) | (kind == MASKED)).sum()) * blocks.query * blocks.key
    rows, columns = blocks.query // blocks.square, blocks.key // blocks.square
    first, last = squares.reshape(2, -1, rows)
    for step in steps[kind == SPARSE]:
        left = column_of(step) * columns
        ends = (np.clip(x[row_of(step)], left, left + columns) for x in (last, first))
        total += int(np.subtract(*ends).sum()) * blocks.square**2
    return total


class TilePlan:
    """The rows of a call as one, padded to whole tiles, and the list of its tiles."""

    def __init__(self, q_shape, k_shape, intervals: Intervals, blocks: Blocks):
        self.rows, self.length = q_shape[:2]
        self.row_keys = k_shape[1]
        queries, keys = self.rows * self.length, self.rows * self.row_keys
        self.blocks = blocks = blocks.for_lengths(queries, keys)
        self.query_padding, self.key_padding = -queries % blocks.query, -keys % blocks.key
        self.total_keys = keys + self.key_padding
        self.lo, self.hi = flatten(intervals, self.row_keys, blocks.query)

    def of_queries(self):
        """Steps, their number and the squares' ranges, query tile after query tile."""
        blocks = self.blocks
        most = max_met(blocks.query, self.length, self.row_keys, blocks.key, self.rows)
        tiles = query_tiles(self.lo, self.hi, blocks.query, blocks.key)
        squares = query_tiles(self.lo, self.hi, blocks.square, blocks.square)
        return list_steps(tiles, squares, most, self.total_keys // blocks.key, blocks.key // blocks.square, blocks.sparse)

    def of_keys(self):
        """The same, key tile after key tile."""
        blocks = self.blocks
        most = max_met(blocks.key, self.row_keys, self.length, blocks.query, self.rows)
        tiles = key_tiles(self.lo, self.hi, blocks.query, blocks.key, self.total_keys)
        squares = key_tiles(self.lo, self.hi, blocks.square, blocks.square, self.total_keys)
        return list_steps(tiles, squares, most, self.lo.size // blocks.query, blocks.query // blocks.square, blocks.sparse)

    def queries(self, x_BLHD):
        """[B, L, H, D] -> [H, N, D], heads filled up with zeros to whole lanes."""
        return heads_first(x_BLHD, self.query_padding)

    def keys(self, x_BSKD):
        return heads_first(x_BSKD, self.key_padding)

    def of_query(self, x_BHL):
        """[B, H, L] -> [H, N]."""
        x = x_BHL.swapaxes(0, 1).reshape(x_BHL.shape[1], -1)
        return jnp.pad(x, ((0, 0), (0, self.query_padding)))

    def unflatten(self, x_HND, shape):
        """The inverse, to [B, L, H, D] of this shape."""
        b, length, heads, width = shape
        return x_HND[:, : b * length, :width].reshape(heads, b, length, width).transpose(1, 2, 0, 3)


def heads_first(x_BLHD, padding):
    b, length, heads, width = x_BLHD.shape
    return jnp.pad(x_BLHD.transpose(2, 0, 1, 3).reshape(heads, b * length, width), ((0, 0), (0, padding), (0, -width % LANES)))


def max_met(tile: int, own_length: int, other_length: int, other_tile: int, rows: int) -> int:
    """Most tiles of the other side that a tile of this side meets: those of the rows it lies in."""
    rows_met = 1 if own_length % tile == 0 else min(rows, (tile - 1) // own_length + 2)
    return -(-rows_met * other_length // other_tile) + 1


def list_steps(
    tiles: TileRanges, squares: TileRanges, most: int, existing: int, squares_a_column: int, sparse: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The list of tiles to visit, row by row; a row without any is visited once, as NOTHING, so that its output is written.

    Args:
      tiles: of R rows.
      squares: of the same rows, each divided into equally many.
      most: columns that a row meets, at most.
      existing: columns that there are.

    Returns:
      packed steps [R x most], how many of them there are, and first and last square of each strip [2 x their number], end to end.
    """
    rows = tiles.first.size
    columns = min(most, existing)
    if rows > MAX_ROWS or existing > MAX_COLUMNS or rows * columns > MAX_TILES:
        raise ValueError(
            f"{rows} tiles that meet {columns} of {existing} are more than the list of tiles can hold (rows {MAX_ROWS}, columns {MAX_COLUMNS}, "
            f"all {MAX_TILES}): shard the context over more devices, or use larger blocks"
        )
    visits = jnp.maximum(tiles.last - tiles.first, 1)
    end = jnp.cumsum(visits).astype(jnp.int32)
    step = jnp.arange(rows * columns, dtype=jnp.int32)
    row = jnp.minimum(jnp.searchsorted(end, step, side="right"), rows - 1).astype(jnp.int32)
    start = end[row] - visits[row]
    column = tiles.first[row] + step - start
    whole = (column >= tiles.full_first[row]) & (column < tiles.full_last[row])

    def of_row(x):  # [squares a row, steps]: long axis last, or a TPU pads the short one to 128
        return x.reshape(rows, -1).T[:, row]

    left, right = column * squares_a_column, (column + 1) * squares_a_column
    touched = (jnp.clip(of_row(squares.last), left, right) - jnp.clip(of_row(squares.first), left, right)).sum(0)
    all_squares = squares.first.size // rows * squares_a_column
    kind = jnp.where(whole, WHOLE, jnp.where(touched > sparse * all_squares, MASKED, SPARSE))
    kind = jnp.where(column < tiles.last[row], kind, NOTHING)
    column = jnp.minimum(column, tiles.last.max() - 1).clip(0)  # of NOTHING: a tile that exists
    packed = row << ROW_SHIFT | column << COLUMN_SHIFT | kind << 2 | (step == end[row] - 1) << 1 | (step == start)
    return packed.astype(jnp.int32), end[-1], jnp.concatenate([squares.first, squares.last])


def row_of(step):
    return step >> ROW_SHIFT


def column_of(step):
    return (step >> COLUMN_SHIFT) & (MAX_COLUMNS - 1)


def is_first(step):
    return (step & 1) == 1


def is_last(step):
    return (step & 2) == 2
