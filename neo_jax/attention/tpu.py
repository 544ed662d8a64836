"""Interval attention for TPUs (Pallas, Mosaic): forward, dK/dV and dQ in memory linear in length.

The tiles that the intervals touch are listed at run time and prefetched as scalars; the grid is as long as that list, so a tile outside is neither
copied nor computed. A tile that lies inside every interval is computed without a mask. One that an edge cuts is divided into strips of small
squares, of which only the touched ones are computed, unless most of them are touched.

The backward pass computes scores transposed, keys x queries: what belongs to a query (lo, hi, log-sum-exp, delta) is then one row that
broadcasts over sublanes for nothing. The forward pass does not: its product with the values would be the slower one (7,079 instead of 6,353
instructions a tile on v5e); it spreads lo and hi over lanes, once for each tile of queries. Accumulation and softmax are float32.

Shape legend: H query heads, K key heads, N queries and S keys of all rows laid end to end, D key width, V value width; X keys and C queries of
what is computed at once.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from neo_jax.attention.intervals import TileRanges, flatten, key_tiles, query_tiles

LANES = 128
LOG2_E = math.log2(math.e)
LOWEST = -0.7 * float(jnp.finfo(jnp.float32).max)  # a masked score: finite, so that the difference of two is a number

# Bits of a listed tile: row << ROW_SHIFT | column << COLUMN_SHIFT | kind << 2 | last << 1 | first.
COLUMN_SHIFT, ROW_SHIFT = 4, 18
MOST_ROWS, MOST_COLUMNS = 1 << (31 - ROW_SHIFT), 1 << (ROW_SHIFT - COLUMN_SHIFT)
MOST_TILES = 1 << 16  # 256 KiB of scalar memory
NOTHING, WHOLE, MASKED, SPARSE = range(4)

NT = (((1,), (1,)), ((), ()))  # contract the second axes of both, and so on
NN = (((1,), (0,)), ((), ()))
TN = (((0,), (0,)), ((), ()))


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


def supports(q: jax.Array, k: jax.Array, v: jax.Array) -> str | None:
    """Why these arrays cannot be attended with here, or None."""
    if q.dtype not in (jnp.bfloat16, jnp.float32) or not q.dtype == k.dtype == v.dtype:
        return f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, must all be bfloat16 or all float32"
    return None


def forward(q, k, v, lo, hi, scale: float, blocks: Blocks, interpret=False) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, V] and log-sum-exp [B, H, L] (float32, natural logarithm) of q [B, L, H, D], k [B, S, K, D], v [B, S, K, V]."""
    heads, groups = q.shape[2], q.shape[2] // k.shape[2]
    plan = _Plan(q.shape, k.shape, lo, hi, blocks)
    blocks = plan.blocks
    steps, count, squares = plan.of_queries()
    q_HND, k_KSD, v_KSV = plan.queries(q), plan.keys(k), plan.keys(v)
    _, n, width = q_HND.shape
    value_width = v_KSV.shape[-1]
    out_HNV, log_sum_H1N = pl.pallas_call(
        functools.partial(_forward_kernel, factor=scale * LOG2_E, blocks=blocks),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(heads, count),
            in_specs=[
                pl.BlockSpec((None, blocks.query, width), lambda h, t, steps, _: (h, _row(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, width), lambda h, t, steps, _: (h // groups, _column(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, value_width), lambda h, t, steps, _: (h // groups, _column(steps[t]), 0)),
                pl.BlockSpec((2, blocks.query), lambda h, t, steps, _: (0, _row(steps[t]))),
            ],
            out_specs=[
                pl.BlockSpec((None, blocks.query, value_width), lambda h, t, steps, _: (h, _row(steps[t]), 0)),
                pl.BlockSpec((None, 1, blocks.query), lambda h, t, steps, _: (h, 0, _row(steps[t]))),
            ],
            scratch_shapes=[
                pltpu.VMEM((blocks.query, LANES), jnp.float32),
                pltpu.VMEM((blocks.query, LANES), jnp.float32),
                pltpu.VMEM((blocks.query, value_width), jnp.float32),
                pltpu.VMEM((blocks.query, LANES), jnp.int32),
                pltpu.VMEM((blocks.query, LANES), jnp.int32),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct((heads, n, value_width), q.dtype), jax.ShapeDtypeStruct((heads, 1, n), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=_cost(2 * (width + value_width), q, k, v),
        interpret=interpret,
        name="interval_attention_forward",
    )(steps, squares, q_HND, k_KSD, v_KSV, jnp.stack([plan.lo, plan.hi]))
    log_sum_BHL1 = plan.unflatten(log_sum_H1N.swapaxes(1, 2), (*q.shape[:3], 1)).swapaxes(1, 2)
    return plan.unflatten(out_HNV, (*q.shape[:3], v.shape[-1])), log_sum_BHL1[..., 0] / LOG2_E


def backward(q, k, v, lo, hi, log_sum, delta, gradient, scale: float, blocks: Blocks, interpret=False) -> tuple[jax.Array, ...]:
    """Gradients of q, k and v.

    Args:
      log_sum: [B, H, L], of `forward`.
      delta: [B, H, L] float32, the sum over V of output x gradient, less the gradient of the log-sum-exp.
      gradient: [B, L, H, V], of the output.
    """
    heads, key_heads = q.shape[2], k.shape[2]
    groups = heads // key_heads
    plan = _Plan(q.shape, k.shape, lo, hi, blocks)
    blocks = plan.blocks
    q_HND, k_KSD, v_KSV, g_HNV = plan.queries(q), plan.keys(k), plan.keys(v), plan.queries(gradient)
    width, value_width = q_HND.shape[-1], v_KSV.shape[-1]
    statistics_H2N = jnp.stack([plan.of_query(log_sum * LOG2_E), plan.of_query(delta)], axis=1)
    arrays = (q_HND, k_KSD, v_KSV, g_HNV, statistics_H2N, jnp.stack([plan.lo, plan.hi]))
    factor = scale * LOG2_E

    steps, count, squares = plan.of_keys()
    dk_KSD, dv_KSV = pl.pallas_call(
        functools.partial(_key_gradient_kernel, factor=factor, scale=scale, blocks=blocks, groups=groups),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(key_heads, count, groups),
            in_specs=[
                pl.BlockSpec((None, blocks.query, width), lambda h, t, g, steps, _: (h * groups + g, _column(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, width), lambda h, t, g, steps, _: (h, _row(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, value_width), lambda h, t, g, steps, _: (h, _row(steps[t]), 0)),
                pl.BlockSpec((None, blocks.query, value_width), lambda h, t, g, steps, _: (h * groups + g, _column(steps[t]), 0)),
                pl.BlockSpec((None, 2, blocks.query), lambda h, t, g, steps, _: (h * groups + g, 0, _column(steps[t]))),
                pl.BlockSpec((2, blocks.query), lambda h, t, g, steps, _: (0, _column(steps[t]))),
            ],
            out_specs=[
                pl.BlockSpec((None, blocks.key, width), lambda h, t, g, steps, _: (h, _row(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, value_width), lambda h, t, g, steps, _: (h, _row(steps[t]), 0)),
            ],
            scratch_shapes=[pltpu.VMEM((blocks.key, width), jnp.float32), pltpu.VMEM((blocks.key, value_width), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(k_KSD.shape, k.dtype), jax.ShapeDtypeStruct(v_KSV.shape, v.dtype)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        cost_estimate=_cost(4 * (width + value_width), q, k, v),
        interpret=interpret,
        name="interval_attention_dkv",
    )(steps, squares, *arrays)

    steps, count, squares = plan.of_queries()
    dq_HND = pl.pallas_call(
        functools.partial(_query_gradient_kernel, factor=factor, scale=scale, blocks=blocks),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(heads, count),
            in_specs=[
                pl.BlockSpec((None, blocks.query, width), lambda h, t, steps, _: (h, _row(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, width), lambda h, t, steps, _: (h // groups, _column(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, value_width), lambda h, t, steps, _: (h // groups, _column(steps[t]), 0)),
                pl.BlockSpec((None, blocks.query, value_width), lambda h, t, steps, _: (h, _row(steps[t]), 0)),
                pl.BlockSpec((None, 2, blocks.query), lambda h, t, steps, _: (h, 0, _row(steps[t]))),
                pl.BlockSpec((2, blocks.query), lambda h, t, steps, _: (0, _row(steps[t]))),
            ],
            out_specs=pl.BlockSpec((None, blocks.query, width), lambda h, t, steps, _: (h, _row(steps[t]), 0)),
            scratch_shapes=[pltpu.VMEM((blocks.query, width), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct(q_HND.shape, q.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=_cost(4 * width + 2 * value_width, q, k, v),
        interpret=interpret,
        name="interval_attention_dq",
    )(steps, squares, *arrays)
    return plan.unflatten(dq_HND, q.shape), plan.unflatten(dk_KSD, k.shape), plan.unflatten(dv_KSV, v.shape)


def computed_pairs(lo: jax.Array, hi: jax.Array, keys: int, blocks: Blocks) -> int:
    """Pairs of a query and a key that the forward pass computes for one head, attended or not; lo, hi [B, L] over rows of `keys` keys."""
    plan = _Plan(lo.shape, (lo.shape[0], keys), lo, hi, blocks)
    steps, count, squares = (np.asarray(x) for x in plan.of_queries())
    steps, blocks = steps[:count], plan.blocks
    kind = (steps >> 2) & 3
    total = int(((kind == WHOLE) | (kind == MASKED)).sum()) * blocks.query * blocks.key
    rows, columns = blocks.query // blocks.square, blocks.key // blocks.square
    first, last = squares.reshape(2, -1, rows)
    for step in steps[kind == SPARSE]:
        left = _column(step) * columns
        ends = (np.clip(x[_row(step)], left, left + columns) for x in (last, first))
        total += int(np.subtract(*ends).sum()) * blocks.square**2
    return total


class _Plan:
    """The rows of a call as one, padded to whole tiles, and the list of its tiles."""

    def __init__(self, q_shape, k_shape, lo, hi, blocks: Blocks):
        self.rows, self.length = q_shape[:2]
        self.row_keys = k_shape[1]
        queries, keys = self.rows * self.length, self.rows * self.row_keys
        self.blocks = blocks = blocks.for_lengths(queries, keys)
        self.query_padding, self.key_padding = -queries % blocks.query, -keys % blocks.key
        self.total_keys = keys + self.key_padding
        self.lo, self.hi = flatten(lo, hi, self.row_keys, blocks.query)

    def of_queries(self):
        """Steps, their number and the squares' ranges, query tile after query tile."""
        blocks = self.blocks
        most = _most_met(blocks.query, self.length, self.row_keys, blocks.key, self.rows)
        tiles = query_tiles(self.lo, self.hi, blocks.query, blocks.key)
        squares = query_tiles(self.lo, self.hi, blocks.square, blocks.square)
        return _steps(tiles, squares, most, self.total_keys // blocks.key, blocks.key // blocks.square, blocks.sparse)

    def of_keys(self):
        """The same, key tile after key tile."""
        blocks = self.blocks
        most = _most_met(blocks.key, self.row_keys, self.length, blocks.query, self.rows)
        tiles = key_tiles(self.lo, self.hi, blocks.query, blocks.key, self.total_keys)
        squares = key_tiles(self.lo, self.hi, blocks.square, blocks.square, self.total_keys)
        return _steps(tiles, squares, most, self.lo.size // blocks.query, blocks.query // blocks.square, blocks.sparse)

    def queries(self, x_BLHD):
        """[B, L, H, D] -> [H, N, D], heads filled up with zeros to whole lanes."""
        return _heads_first(x_BLHD, self.query_padding)

    def keys(self, x_BSKD):
        return _heads_first(x_BSKD, self.key_padding)

    def of_query(self, x_BHL):
        """[B, H, L] -> [H, N]."""
        x = x_BHL.swapaxes(0, 1).reshape(x_BHL.shape[1], -1)
        return jnp.pad(x, ((0, 0), (0, self.query_padding)))

    def unflatten(self, x_HND, shape):
        """The inverse, to [B, L, H, D] of this shape."""
        b, length, heads, width = shape
        return x_HND[:, : b * length, :width].reshape(heads, b, length, width).transpose(1, 2, 0, 3)


def _heads_first(x_BLHD, padding):
    b, length, heads, width = x_BLHD.shape
    return jnp.pad(x_BLHD.transpose(2, 0, 1, 3).reshape(heads, b * length, width), ((0, 0), (0, padding), (0, -width % LANES)))


def _most_met(tile: int, own_length: int, other_length: int, other_tile: int, rows: int) -> int:
    """Most tiles of the other side that a tile of this side meets: those of the rows it lies in."""
    rows_met = 1 if own_length % tile == 0 else min(rows, (tile - 1) // own_length + 2)
    return -(-rows_met * other_length // other_tile) + 1


def _steps(
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
    if rows > MOST_ROWS or existing > MOST_COLUMNS or rows * columns > MOST_TILES:
        raise ValueError(
            f"{rows} tiles that meet {columns} of {existing} are more than the list of tiles can hold (rows {MOST_ROWS}, columns {MOST_COLUMNS}, "
            f"all {MOST_TILES}): shard the context over more devices, or use larger blocks"
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


def _row(step):
    return step >> ROW_SHIFT


def _column(step):
    return (step >> COLUMN_SHIFT) & (MOST_COLUMNS - 1)


def _first(step):
    return (step & 1) == 1


def _last(step):
    return (step & 2) == 2


def _visit(step, squares, update, row_tile: int, column_tile: int, square: int, chunks) -> None:
    """Calls `update(rows, columns, masked)` for the parts of the tile that hold attended pairs.

    Args:
      squares: ranges of `_steps`, in scalar memory.
      chunks: (rows, columns) that make up the tile where it is computed whole.
    """
    kind = (step >> 2) & 3
    for which, masked in ((WHOLE, False), (MASKED, True)):

        @pl.when(kind == which)
        def _(masked=masked):
            for rows, columns in chunks:
                update(rows, columns, masked)

    @pl.when(kind == SPARSE)
    def _():
        a_row, a_column = row_tile // square, column_tile // square
        number = squares.shape[0] // 2

        def of_strip(r, _):
            at = _row(step) * a_row + r
            left = _column(step) * a_column
            first, last = (jnp.clip(squares[i * number + at] - left, 0, a_column) for i in range(2))
            rows = pl.ds(pl.multiple_of(r * square, square), square)
            # One program for each number of squares: the compiler overlaps what it knows the size of.
            for count in range(1, a_column + 1):

                @pl.when(last - first == count)
                def _(count=count):
                    update(rows, pl.ds(pl.multiple_of(first * square, square), count * square), True)

        jax.lax.fori_loop(0, a_row, of_strip, None)


def _forward_kernel(
    steps, squares, q_ref, k_ref, v_ref, interval_ref, out_ref, log_sum_ref, maximum, total, accumulator, first_key, end_key,
    *, factor, blocks: Blocks,
):  # fmt: skip
    step = steps[pl.program_id(1)]

    @pl.when(_first(step))
    def _():
        maximum[...] = jnp.full_like(maximum, LOWEST)
        total[...] = jnp.zeros_like(total)
        accumulator[...] = jnp.zeros_like(accumulator)
        first_key[...] = _lanes(interval_ref[0:1, :])
        end_key[...] = _lanes(interval_ref[1:2, :])

    def update(queries, keys, masked):
        s_CX = _matmul(q_ref[queries, :], k_ref[keys, :], NT) * factor
        if masked:
            position = jax.lax.broadcasted_iota(jnp.int32, s_CX.shape, 1)
            at = _column(step) * blocks.key + keys.start
            lo, hi = (_repeat(x[queries, :] - at, s_CX.shape[1]) for x in (first_key, end_key))
            s_CX = jnp.where((position >= lo) & (position < hi), s_CX, LOWEST)
        old = maximum[queries, :]
        new = jnp.maximum(old, s_CX.max(axis=1, keepdims=True))
        p_CX = jnp.exp2(s_CX - _repeat(new, s_CX.shape[1]))
        correction = jnp.exp2(old - new)
        maximum[queries, :] = new
        total[queries, :] = correction * total[queries, :] + p_CX.sum(axis=1, keepdims=True)
        weighted_CV = _matmul(p_CX.astype(v_ref.dtype), v_ref[keys, :], NN)
        accumulator[queries, :] = _repeat(correction, weighted_CV.shape[1]) * accumulator[queries, :] + weighted_CV

    _visit(step, squares, update, blocks.query, blocks.key, blocks.square, [(pl.ds(0, blocks.query), keys) for keys in _key_chunks(blocks)])

    @pl.when(_last(step))
    def _():
        out_ref[...] = (accumulator[...] * _repeat(1 / total[...], accumulator.shape[1])).astype(out_ref.dtype)
        log_sum_ref[...] = (maximum[...] + jnp.log2(total[...])).T[0:1, :]


def _key_gradient_kernel(
    steps, squares, q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, dk_ref, dv_ref, dk, dv, *, factor, scale, blocks: Blocks, groups
):  # fmt: skip
    step, group = steps[pl.program_id(1)], pl.program_id(2)

    @pl.when(_first(step) & (group == 0))
    def _():
        dk[...] = jnp.zeros_like(dk)
        dv[...] = jnp.zeros_like(dv)

    def update(keys, queries, masked):
        at = _row(step) * blocks.key
        p_XC, ds_XC = _score_gradients(q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, queries, keys, at, factor, masked)
        dv[keys, :] += _matmul(p_XC.astype(g_ref.dtype), g_ref[queries, :], NN)
        dk[keys, :] += _matmul(ds_XC.astype(q_ref.dtype), q_ref[queries, :], NN)

    _visit(step, squares, update, blocks.key, blocks.query, blocks.square, [(keys, pl.ds(0, blocks.query)) for keys in _key_chunks(blocks)])

    @pl.when(_last(step) & (group == groups - 1))
    def _():
        dk_ref[...] = (dk[...] * scale).astype(dk_ref.dtype)
        dv_ref[...] = dv[...].astype(dv_ref.dtype)


def _query_gradient_kernel(
    steps, squares, q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, dq_ref, dq, *, factor, scale, blocks: Blocks
):  # fmt: skip
    step = steps[pl.program_id(1)]

    @pl.when(_first(step))
    def _():
        dq[...] = jnp.zeros_like(dq)

    def update(queries, keys, masked):
        at = _column(step) * blocks.key
        _, ds_XC = _score_gradients(q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, queries, keys, at, factor, masked)
        dq[queries, :] += _matmul(ds_XC.astype(k_ref.dtype), k_ref[keys, :], TN)

    _visit(step, squares, update, blocks.query, blocks.key, blocks.square, [(pl.ds(0, blocks.query), keys) for keys in _key_chunks(blocks)])

    @pl.when(_last(step))
    def _():
        dq_ref[...] = (dq[...] * scale).astype(dq_ref.dtype)


def _key_chunks(blocks: Blocks):
    return [pl.ds(start, blocks.compute) for start in range(0, blocks.key, blocks.compute)]


def _scores(q_ref, k_ref, queries, keys, factor):
    """Scores in powers of two, [X, C]."""
    return _matmul(k_ref[keys, :], q_ref[queries, :], NT) * factor


def _score_gradients(q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, queries, keys, first_key, factor, masked):
    """Probabilities and the gradients of the scores (less the factor `scale`), both [X, C]."""
    p_XC = jnp.exp2(_scores(q_ref, k_ref, queries, keys, factor) - statistics_ref[0:1, queries])
    if masked:
        p_XC = jnp.where(_mask(interval_ref, queries, first_key, keys, p_XC.shape), p_XC, 0.0)
    dp_XC = _matmul(v_ref[keys, :], g_ref[queries, :], NT)
    return p_XC, p_XC * (dp_XC - statistics_ref[1:2, queries])


def _mask(interval_ref, queries, first_key, keys, shape):
    position = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    at = first_key + keys.start
    return (position >= interval_ref[0:1, queries] - at) & (position < interval_ref[1:2, queries] - at)


def _lanes(row):
    """[1, C] -> [C, 128], each number in all lanes of a row."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T


def _repeat(x, width):
    """[C, 128], all lanes of a row equal -> [C, width]."""
    return jnp.tile(x, (1, width // LANES))


def _matmul(a, b, contract):
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(a, b, contract, precision=precision, preferred_element_type=jnp.float32)


def _cost(flops_a_pair: int, q, k, v) -> pl.CostEstimate:
    """For the compiler's scheduling: as if every query saw half of the keys."""
    b, length, heads, _ = q.shape
    pairs = b * heads * length * k.shape[1] // 2
    return pl.CostEstimate(flops=flops_a_pair * pairs, transcendentals=pairs, bytes_accessed=2 * (q.nbytes + k.nbytes + v.nbytes))
