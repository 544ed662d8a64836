"""Interval attention on Hopper GPUs (sm_90) in Pallas Mosaic GPU: the forward pass, and what both passes share.

A block computes a tile of 128 queries of one head. One warpgroup copies tiles of keys and values into shared memory (TMA), two others multiply,
64 queries each, and take turns: while one computes its softmax, the tensor cores work for the other. Only the tiles that the planner names are
copied, only those that it does not call full are masked. Products are bfloat16, sums float32, exponentials of base 2.

The rows of a batch are laid end to end. Heads are not moved: TMA reads a head of [N, H, D] where it lies.

Shape legend: N queries and M keys of all rows, H query heads, K key heads, D key width, V value width, Q queries of a warpgroup, X keys of a tile.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from neo_jax.attention import intervals

KEY_WIDTH, VALUE_WIDTH = 256, 128
HALF = KEY_WIDTH // 2  # queries are kept in two halves, so that the output fits over one of them
ROWS = 64  # of a warpgroup's products: what wgmma prescribes
QUERY_TILE = 2 * ROWS
LOG2_E = math.log2(math.e)
LOWEST = -1e30  # start of the running maximum: finite, so that exp2(-inf - LOWEST) is 0 and not NaN
PRODUCER_REGISTERS, CONSUMER_REGISTERS = 40, 232  # 40 + 2 x 232 of the 512 that three threads, one of each warpgroup, share

MATRIX = plgpu.Layout.WGMMA
PER_ROW, PER_COLUMN = MATRIX.reduce(1), MATRIX.reduce(0)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Tile sizes, and how many tiles are in shared memory at a time.

    Attributes:
      forward_keys, forward_stages: keys of a tile of the forward kernel.
      dq_keys, dq_key_stages, dq_value_stages: keys of a tile of the kernel of the queries' gradient.
      dkv_queries, dkv_stages: queries of a tile of the kernel of the keys' and values' gradients.
    """

    forward_keys: int = 96
    forward_stages: int = 2
    dq_keys: int = 64
    dq_key_stages: int = 3
    dq_value_stages: int = 2
    dkv_queries: int = 64
    dkv_stages: int = 3


BLOCKS = Blocks()


def computed_pairs(lo: jax.Array, hi: jax.Array, keys: int, blocks: Blocks) -> int:
    """Pairs of a query and a key that the forward pass computes for one head, attended or not; lo, hi [B, L] over rows of `keys` keys."""
    tiles = intervals.query_tiles(*intervals.flatten(lo, hi, keys, QUERY_TILE), QUERY_TILE, blocks.forward_keys)
    return int(intervals.visited_pairs(tiles, QUERY_TILE, blocks.forward_keys))


def supports(q: jax.Array, k: jax.Array, v: jax.Array) -> str | None:
    """Why these arrays cannot be attended here, or None."""
    for name, array, width in (("q", q, KEY_WIDTH), ("k", k, KEY_WIDTH), ("v", v, VALUE_WIDTH)):
        if array.dtype != jnp.bfloat16:
            return f"{name} is {array.dtype}; the Hopper kernels compute in bfloat16"
        if array.shape[-1] != width:
            return f"{name} is {array.shape[-1]} wide; the Hopper kernels want {width}"
    if q.shape[2] % k.shape[2]:
        return f"{q.shape[2]} query heads cannot share {k.shape[2]} key heads evenly"
    return None


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, scale: float, blocks: Blocks = BLOCKS, interpret=False
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention in which query i of a row sees the keys [lo[i], hi[i]) of that row.

    Args:
      q: [B, L, H, 256] bfloat16.
      k: [B, S, K, 256] bfloat16; H is a multiple of K, consecutive query heads share a key head.
      v: [B, S, K, 128] bfloat16.
      lo, hi: [B, L] int32 in key positions of the row, lo < hi, neither decreasing along a row.
      scale: positive factor on the inner products.
      interpret: False, or the parameters of the interpreter, which runs the kernel on a CPU.

    Returns:
      The output [B, L, H, 128] bfloat16, and the logarithm [B, H, L] float32 of the sum of the exponentials of the scaled scores.
    """
    b, length, heads, _ = q.shape
    lo, hi = intervals.flatten(lo, hi, k.shape[1], QUERY_TILE)
    ranges = jnp.stack(intervals.query_tiles(lo, hi, QUERY_TILE, blocks.forward_keys))
    # Keys need not fill whole tiles: the last tile begins early and masks what the tile before it had.
    q_NHD, k_MKD, v_MKV = end_to_end(q, QUERY_TILE), *(end_to_end(x, 1, blocks.forward_keys) for x in (k, v))
    n, key_heads = q_NHD.shape[0], k.shape[2]
    out, log_sum = plgpu.kernel(
        functools.partial(_forward_kernel, scale=scale, blocks=blocks, interpret=bool(interpret)),
        out_type=(jax.ShapeDtypeStruct((n, heads, VALUE_WIDTH), q.dtype), jax.ShapeDtypeStruct((heads, n), jnp.float32)),
        scratch_types=dict(
            q_halves=[shared(QUERY_TILE, HALF)] * 2,
            k_s=shared(blocks.forward_stages, blocks.forward_keys, KEY_WIDTH),
            v_s=shared(blocks.forward_stages, blocks.forward_keys, VALUE_WIDTH, swizzle=swizzle_of_sum(blocks.forward_keys)),
            log_sum_s=plgpu.SMEM((2, ROWS), jnp.float32),
            q_full=plgpu.Barrier(num_arrivals=2),
            k_full=plgpu.Barrier(num_barriers=blocks.forward_stages),
            v_full=plgpu.Barrier(num_barriers=blocks.forward_stages),
            k_free=plgpu.Barrier(num_arrivals=2, num_barriers=blocks.forward_stages),
            v_free=plgpu.Barrier(num_arrivals=2, num_barriers=blocks.forward_stages),
            turn=plgpu.Barrier(num_arrivals=2),
        ),
        kernel_name="interval_attention_forward",
        **launch(key_heads, n // QUERY_TILE, heads // key_heads, interpret=interpret),
    )(q_NHD, k_MKD, v_MKV, lo, hi, ranges)
    out = out[: b * length].reshape(b, length, heads, VALUE_WIDTH)
    return out, log_sum[:, : b * length].reshape(heads, b, length).swapaxes(0, 1)


def _forward_kernel(
    q_NHD, k_MKD, v_MKV, lo_N, hi_N, ranges, out_NHV, log_sum_HN, *,
    q_halves, k_s, v_s, log_sum_s, q_full, k_full, v_full, k_free, v_free, turn, scale, blocks, interpret,
):  # fmt: skip
    key_head = jax.lax.axis_index("key_head")
    # The last queries of a row see the most keys: their blocks start first, so that the last block to end is a short one.
    tile = out_NHV.shape[0] // QUERY_TILE - 1 - jax.lax.axis_index("tile")
    head = key_head * (out_NHV.shape[1] // k_MKD.shape[1]) + jax.lax.axis_index("head_of_group")
    warpgroup = jax.lax.axis_index("warpgroup")
    first, last, full_first, full_last = (ranges[i, tile] for i in range(4))
    size, stages = blocks.forward_keys, blocks.forward_stages
    steps = last - first

    def first_key(i):
        return jnp.minimum((first + i) * size, k_MKD.shape[0] - size)

    @pl.when(warpgroup == 2)
    def producer():
        plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")
        for half, q_half in enumerate(q_halves):
            columns = pl.ds(half * HALF, HALF)
            plgpu.copy_gmem_to_smem(q_NHD.at[pl.ds(tile * QUERY_TILE, QUERY_TILE), head, columns], q_half, q_full)

        @pl.loop(0, steps)
        def _(i):
            keys, stage = pl.ds(first_key(i), size), jax.lax.rem(i, stages)
            for array, tiles, full, free in ((k_MKD, k_s, k_full, k_free), (v_MKV, v_s, v_full, v_free)):
                pl.when(i >= stages)(lambda free=free: plgpu.barrier_wait(free.at[stage]))
                plgpu.copy_gmem_to_smem(array.at[keys, key_head], tiles.at[stage], full.at[stage])

        drain(steps, stages, k_free, v_free)

    @pl.when(warpgroup < 2)
    def consumer():
        plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")
        rows = pl.ds(warpgroup * ROWS, ROWS)
        queries = pl.ds(tile * QUERY_TILE + warpgroup * ROWS, ROWS)
        lo, hi = (plgpu.load(x.at[queries], layout=PER_ROW, optimized=False) for x in (lo_N, hi_N))

        def queries_and_keys(stage):
            return [(q_half.at[rows], k_s.at[stage, :, pl.ds(half * HALF, HALF)].T) for half, q_half in enumerate(q_halves)]

        def take_turns():
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(turn)

        def masked(scores_QX, i):
            key = first_key(i) + plgpu.broadcasted_iota(jnp.int32, scores_QX.shape, 1, layout=MATRIX)
            start = jnp.maximum(lo, (first + i) * size)
            return jnp.where((key >= by_row(start, key)) & (key < by_row(hi, key)), scores_QX, -jnp.inf)

        def softmax(scores_QX, i, maximum, total, accumulator):
            """Weights of tile i, and the running values with their new maximum."""
            needs_mask = (first + i < full_first) | (first + i >= full_last)
            scores_QX = jax.lax.cond(needs_mask, lambda: masked(scores_QX, i), lambda: scores_QX)
            new_maximum = jnp.maximum(maximum, scores_QX.max(axis=1) * (scale * LOG2_E))
            correction = jnp.exp2(maximum - new_maximum)
            weights_QX = jnp.exp2(scores_QX * (scale * LOG2_E) - by_row(new_maximum, scores_QX))
            total = total * correction + weights_QX.sum(axis=1)
            return weights_QX.astype(jnp.bfloat16), new_maximum, total, accumulator * by_row(correction, accumulator)

        def step(i, state):
            """Softmax of tile i; then, one behind the other on the tensor cores, its values and the scores of tile i + 1."""
            scores_QX, *running = state
            weights_QX, maximum, total, accumulator = softmax(scores_QX, i, *running)
            stage, next_stage = jax.lax.rem(i, stages), jax.lax.rem(i + 1, stages)
            plgpu.barrier_wait(v_full.at[stage])
            plgpu.barrier_wait(k_full.at[next_stage])
            take_turns()
            accumulator, scores_QX = multiply_add(
                (accumulator, [(weights_QX, v_s.at[stage])]),
                (zeros(ROWS, size), queries_and_keys(next_stage)),
                interpret=interpret,
                when_issued=take_turns,
            )
            plgpu.barrier_arrive(v_free.at[stage])
            plgpu.barrier_arrive(k_free.at[next_stage])
            return scores_QX, maximum, total, accumulator

        plgpu.barrier_wait(q_full)
        plgpu.barrier_wait(k_full.at[0])
        pl.when(warpgroup == 1)(take_turns)
        scores_QX = multiply(queries_and_keys(0), when_issued=take_turns)
        plgpu.barrier_arrive(k_free.at[0])
        maximum = plgpu.layout_cast(jnp.full((ROWS,), LOWEST, jnp.float32), PER_ROW)
        total = plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), PER_ROW)
        state = (scores_QX, maximum, total, zeros(ROWS, VALUE_WIDTH))
        scores_QX, *running = jax.lax.fori_loop(0, steps - 1, step, state)
        weights_QX, maximum, total, accumulator = softmax(scores_QX, steps - 1, *running)
        pl.when(warpgroup == 0)(take_turns)
        stage = jax.lax.rem(steps - 1, stages)
        plgpu.barrier_wait(v_full.at[stage])
        (accumulator,) = multiply_add((accumulator, [(weights_QX, v_s.at[stage])]), interpret=interpret)
        plgpu.barrier_arrive(v_free.at[stage])

        out_s = q_halves[0].at[rows]  # the queries have been read
        out_s[...] = (accumulator * by_row(1 / total, accumulator)).astype(out_s.dtype)
        log_sum_s[warpgroup] = maximum / LOG2_E + jnp.log(total)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(out_s, out_NHV.at[queries, head])
        plgpu.copy_smem_to_gmem(log_sum_s.at[warpgroup], log_sum_HN.at[head, queries])
        plgpu.wait_smem_to_gmem(0)


def drain(steps, stages: int, *free) -> None:
    """Waits for the last use of every stage: jax 0.11's interpreter wants no arrival unseen."""

    @pl.loop(jnp.maximum(steps - stages, 0), steps)
    def _(i):
        for barrier in free:
            plgpu.barrier_wait(barrier.at[jax.lax.rem(i, stages)])


def multiply(pairs, when_issued=lambda: None) -> jax.Array:
    """The sum of the products a @ b of pairs of matrices in shared memory."""

    def issue(accumulator):
        for a, b in pairs:
            plgpu.wgmma(accumulator, a, b)
        when_issued()
        return accumulator[...]

    return pl.run_scoped(issue, plgpu.ACC((pairs[0][0].shape[0], pairs[0][1].shape[1]), jnp.float32))


def multiply_add(*terms, interpret: bool, when_issued=lambda: None):
    """Of each term (c, pairs) the sum of c and all products a @ b: c and arrays a in registers, b and references a in shared memory.

    All products are issued, then `when_issued` is called, then all are waited for.
    """
    if interpret:  # the interpreter knows no operands in registers: loads instead, which unlike wgmma need a fence before TMA may overwrite
        results = tuple(c + sum(_product(a, b) for a, b in pairs) for c, pairs in terms)
        plgpu.commit_smem()
        when_issued()
        return results

    def issue(accumulators):
        for accumulator, (_, pairs) in zip(accumulators, terms, strict=True):
            for a, b in pairs:
                plgpu.wgmma(accumulator, a, b)
        when_issued()

    return pl.run_state(issue)(tuple(plgpu.ACC.init(c) for c, _ in terms))


def _product(a, b):
    a = a if isinstance(a, jax.Array) else a[...]
    return jnp.dot(a, b[...], preferred_element_type=jnp.float32)


def zeros(rows: int, columns: int) -> jax.Array:
    return plgpu.layout_cast(jnp.zeros((rows, columns), jnp.float32), MATRIX)


def by_row(x, matrix):
    return jax.lax.broadcast_in_dim(x, matrix.shape, [0])


def shared(*shape: int, swizzle: int = 128):
    """Scratch memory for bfloat16 matrices, laid out as TMA and wgmma want them. Swizzle in bytes."""
    tiling, swizzled = plgpu.TilingTransform((8, swizzle // 2)), plgpu.SwizzleTransform(swizzle)  # type: ignore[abstract]
    return plgpu.SMEM(shape, jnp.bfloat16, transforms=(tiling, swizzled))


def swizzle_of_sum(rows: int) -> int:
    """The widest swizzle for a matrix whose rows are summed over: lowering takes that many bytes' worth of rows at a time."""
    return 128 if rows % 64 == 0 else 64


def launch(*grid: int, interpret):
    """Arguments of a kernel with a block for each key head (slowest), tile and query head of the group."""
    return dict(
        grid=grid,
        grid_names=("key_head", "tile", "head_of_group")[: len(grid)],
        num_threads=3,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **(dict(interpret=interpret) if interpret else {}),
    )


def end_to_end(x: jax.Array, multiple: int, least: int = 0) -> jax.Array:
    """[B, L, ...] -> [N, ...], rows end to end; zeros at the end make N a multiple, and at least `least`."""
    x = x.reshape(-1, *x.shape[2:])
    padding = max(-x.shape[0] % multiple, least - x.shape[0])
    return jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1)))
