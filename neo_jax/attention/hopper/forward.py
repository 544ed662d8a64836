"""Interval attention on Hopper GPUs (sm_90) in Pallas Mosaic GPU: the forward pass.

A block computes a tile of 128 queries of one head. One warpgroup copies tiles of keys and values into shared memory (TMA), two others multiply,
64 queries each, and take turns: while one computes its softmax, the tensor cores work for the other. Only the tiles that the planner names are
copied, only those that it does not call full are masked. Products are bfloat16, sums float32, exponentials of base 2.

The rows of a batch are laid end to end. Heads are not moved: TMA reads a head of [N, H, D] where it lies.

Shape legend: N queries and M keys of all rows, H query heads, K key heads, D key width, V value width, Q queries of a warpgroup, X keys of a tile.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from data_pipelines.batch import Intervals
from neo_jax.attention.hopper.common import (
    BLOCKS,
    CONSUMER_REGISTERS,
    HALF,
    KEY_WIDTH,
    LOG2_E,
    LOWEST,
    MATRIX,
    PER_ROW,
    PRODUCER_REGISTERS,
    QUERY_TILE,
    ROWS,
    VALUE_WIDTH,
    Blocks,
    by_row,
    drain,
    end_to_end,
    launch,
    multiply,
    multiply_add,
    shared,
    swizzle_of_sum,
    zeros,
)
from neo_jax.attention.intervals import flatten, query_tiles


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, intervals: Intervals, scale: float, blocks: Blocks = BLOCKS, interpret=False
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention in which query i of a row sees the keys [lo[i], hi[i]) of that row.

    Args:
      q: [B, L, H, 256] bfloat16.
      k: [B, S, K, 256] bfloat16; H is a multiple of K, consecutive query heads share a key head.
      v: [B, S, K, 128] bfloat16.
      intervals: [B, L] int32 in key positions of the row, lo < hi, neither decreasing along a row.
      scale: positive factor on the inner products.
      interpret: False, or the parameters of the interpreter, which runs the kernel on a CPU.

    Returns:
      The output [B, L, H, 128] bfloat16, and the logarithm [B, H, L] float32 of the sum of the exponentials of the scaled scores.
    """
    b, length, heads, _ = q.shape
    lo, hi = flatten(intervals, k.shape[1], QUERY_TILE)
    ranges = jnp.stack(query_tiles(lo, hi, QUERY_TILE, blocks.forward_keys))
    # Keys need not fill whole tiles: the last tile begins early and masks what the tile before it had.
    q_NHD, k_MKD, v_MKV = end_to_end(q, QUERY_TILE), *(end_to_end(x, 1, blocks.forward_keys) for x in (k, v))
    n, key_heads = q_NHD.shape[0], k.shape[2]
    out, lse = plgpu.kernel(
        functools.partial(_forward_kernel, scale=scale, blocks=blocks, interpret=bool(interpret)),
        out_type=(jax.ShapeDtypeStruct((n, heads, VALUE_WIDTH), q.dtype), jax.ShapeDtypeStruct((heads, n), jnp.float32)),
        scratch_types=dict(
            q_halves=[shared(QUERY_TILE, HALF)] * 2,
            k_s=shared(blocks.forward_stages, blocks.forward_keys, KEY_WIDTH),
            v_s=shared(blocks.forward_stages, blocks.forward_keys, VALUE_WIDTH, swizzle=swizzle_of_sum(blocks.forward_keys)),
            lse_s=plgpu.SMEM((2, ROWS), jnp.float32),
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
    return out, lse[:, : b * length].reshape(heads, b, length).swapaxes(0, 1)


def _forward_kernel(
    q_NHD, k_MKD, v_MKV, lo_N, hi_N, ranges, out_NHV, lse_HN, *,
    q_halves, k_s, v_s, lse_s, q_full, k_full, v_full, k_free, v_free, turn, scale, blocks, interpret,
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
            """Computes the softmax of tile i, then issues out += P[i] V[i] and S[i + 1] on the tensor cores."""
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
        lse_s[warpgroup] = maximum / LOG2_E + jnp.log(total)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(out_s, out_NHV.at[queries, head])
        plgpu.copy_smem_to_gmem(lse_s.at[warpgroup], lse_HN.at[head, queries])
        plgpu.wait_smem_to_gmem(0)
