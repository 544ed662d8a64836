"""The gradients of interval attention on Hopper GPUs (sm_90), in Pallas Mosaic GPU: a kernel for the queries, one for keys and values.

Both compute the weights anew from the logarithms of their sums. The queries' kernel is built like the forward one. In the other a block has 64 keys
of one head and meets tiles of 64 queries of all heads of the group; its warpgroups do different work, since the sums of both gradients fill the
registers of two: one computes the weights and sums the values' gradient, the other, which gets the weights through shared memory, computes the
scores' gradient and sums the keys'. Scores stand there keys by queries, so that the weights are an operand in registers. Nothing is summed over
blocks: results do not depend on their order.

Shape legend: N queries and M keys of all rows, H query heads, K key heads, D key width, V value width, Q queries of a tile (of a warpgroup in the
queries' kernel), X keys of a tile. weights = softmax(scores), dweights = gradient v^T, dscores = weights (dweights - delta).
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from data_pipelines.batch import Intervals
from neo_jax.attention.hopper.common import (
    BLOCKS,
    CONSUMER_REGISTERS,
    KEY_WIDTH,
    LOG2_E,
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
    multiply_add,
    shared,
    zeros,
)
from neo_jax.attention.hopper.key_gradients import gradients_of_keys_and_values
from neo_jax.attention.intervals import flatten, query_tiles


def backward(q, k, v, intervals: Intervals, lse, delta, d_out, scale: float, blocks: Blocks = BLOCKS, interpret=False):
    """Gradients of q, k and v. Arguments as in hopper.forward, and:

    Args:
      lse: [B, H, L] float32, what the forward pass returned.
      delta: [B, H, L] float32, the sum of output * gradient less the gradient of lse.
      d_out: [B, L, H, 128] bfloat16, gradient of the output.
    """
    lo_N, hi_N = flatten(intervals, k.shape[1], QUERY_TILE)
    q_NHD, gradient_NHV = end_to_end(q, QUERY_TILE), end_to_end(d_out, QUERY_TILE)
    keys = math.lcm(blocks.dq_keys, ROWS)
    k_MKD, v_MKV = end_to_end(k, keys), end_to_end(v, keys)
    lse_HN, delta_HN = (end_to_end(x.swapaxes(1, 2), QUERY_TILE).T for x in (lse * LOG2_E, delta))
    arguments = (q_NHD, k_MKD, v_MKV, gradient_NHV, lse_HN, delta_HN, lo_N, hi_N)
    dq = _gradient_of_queries(*arguments, scale, blocks, interpret)
    dk, dv = gradients_of_keys_and_values(*arguments, scale, blocks, interpret)
    return tuple(dx[: x.shape[0] * x.shape[1]].reshape(x.shape) for dx, x in ((dq, q), (dk, k), (dv, v)))


def _gradient_of_queries(q_NHD, k_MKD, v_MKV, gradient_NHV, lse_HN, delta_HN, lo_N, hi_N, scale, blocks, interpret):
    n, heads, _ = q_NHD.shape
    key_heads = k_MKD.shape[1]
    k_stages, v_stages = blocks.dq_key_stages, blocks.dq_value_stages
    ranges = jnp.stack(query_tiles(lo_N, hi_N, QUERY_TILE, blocks.dq_keys))
    return plgpu.kernel(
        functools.partial(_dq_kernel, scale=scale, blocks=blocks, interpret=bool(interpret)),
        out_type=jax.ShapeDtypeStruct(q_NHD.shape, q_NHD.dtype),
        scratch_types=dict(
            q_s=shared(QUERY_TILE, KEY_WIDTH),
            gradient_s=shared(QUERY_TILE, VALUE_WIDTH),
            k_s=shared(k_stages, blocks.dq_keys, KEY_WIDTH),
            v_s=shared(v_stages, blocks.dq_keys, VALUE_WIDTH),
            queries_full=plgpu.Barrier(num_arrivals=2),
            k_full=plgpu.Barrier(num_barriers=k_stages),
            v_full=plgpu.Barrier(num_barriers=v_stages),
            k_free=plgpu.Barrier(num_arrivals=2, num_barriers=k_stages),
            v_free=plgpu.Barrier(num_arrivals=2, num_barriers=v_stages),
            turn=plgpu.Barrier(num_arrivals=2),
        ),
        kernel_name="interval_attention_dq",
        **launch(key_heads, n // QUERY_TILE, heads // key_heads, interpret=interpret),
    )(q_NHD, k_MKD, v_MKV, gradient_NHV, lse_HN, delta_HN, lo_N, hi_N, ranges)


def _dq_kernel(
    q_NHD, k_MKD, v_MKV, gradient_NHV, lse_HN, delta_HN, lo_N, hi_N, ranges, dq_NHD, *,
    q_s, gradient_s, k_s, v_s, queries_full, k_full, v_full, k_free, v_free, turn, scale, blocks, interpret,
):  # fmt: skip
    key_head = jax.lax.axis_index("key_head")
    tile = q_NHD.shape[0] // QUERY_TILE - 1 - jax.lax.axis_index("tile")  # longest first, as in the forward kernel
    head = key_head * (q_NHD.shape[1] // k_MKD.shape[1]) + jax.lax.axis_index("head_of_group")
    warpgroup = jax.lax.axis_index("warpgroup")
    first, last, full_first, full_last = (ranges[i, tile] for i in range(4))
    steps, size = last - first, blocks.dq_keys
    k_stages, v_stages = blocks.dq_key_stages, blocks.dq_value_stages

    @pl.when(warpgroup == 2)
    def producer():
        plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")
        queries = pl.ds(tile * QUERY_TILE, QUERY_TILE)
        plgpu.copy_gmem_to_smem(q_NHD.at[queries, head], q_s, queries_full)
        plgpu.copy_gmem_to_smem(gradient_NHV.at[queries, head], gradient_s, queries_full)

        @pl.loop(0, steps)
        def _(i):
            keys = pl.ds((first + i) * size, size)
            for array, tiles, full, free, stages in ((k_MKD, k_s, k_full, k_free, k_stages), (v_MKV, v_s, v_full, v_free, v_stages)):
                stage = jax.lax.rem(i, stages)
                pl.when(i >= stages)(lambda free=free, stage=stage: plgpu.barrier_wait(free.at[stage]))
                plgpu.copy_gmem_to_smem(array.at[keys, key_head], tiles.at[stage], full.at[stage])

        drain(steps, k_stages, k_free)
        drain(steps, v_stages, v_free)

    @pl.when(warpgroup < 2)
    def consumer():
        plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")
        rows = pl.ds(warpgroup * ROWS, ROWS)
        queries = pl.ds(tile * QUERY_TILE + warpgroup * ROWS, ROWS)
        lo, hi = (plgpu.load(x.at[queries], layout=PER_ROW, optimized=False) for x in (lo_N, hi_N))
        lse, delta = (plgpu.load(x.at[head, queries], layout=PER_ROW, optimized=False) for x in (lse_HN, delta_HN))

        def take_turns():
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(turn)

        def masked(weights_QX, i):
            key = (first + i) * size + plgpu.broadcasted_iota(jnp.int32, weights_QX.shape, 1, layout=MATRIX)
            return jnp.where((key >= by_row(lo, key)) & (key < by_row(hi, key)), weights_QX, 0.0)

        def dscores(i, scores_QX):
            """The gradient of tile i's scores: while the tensor cores compute that of the weights, the scores become weights."""
            v_stage = jax.lax.rem(i, v_stages)
            plgpu.barrier_wait(v_full.at[v_stage])

            def issue(dweights):
                plgpu.wgmma(dweights, gradient_s.at[rows], v_s.at[v_stage].T)
                weights_QX = jnp.exp2(scores_QX * (scale * LOG2_E) - by_row(lse, scores_QX))
                needs_mask = (first + i < full_first) | (first + i >= full_last)
                weights_QX = jax.lax.cond(needs_mask, lambda: masked(weights_QX, i), lambda: weights_QX)
                return weights_QX, dweights[...]

            weights_QX, dweights_QX = pl.run_scoped(issue, plgpu.ACC((ROWS, size), jnp.float32))
            plgpu.barrier_arrive(v_free.at[v_stage])
            return (weights_QX * (dweights_QX - by_row(delta, dweights_QX))).astype(jnp.bfloat16)

        def step(i, state):
            """Issues dq += dS[i - 1] K[i - 1] (skipped where i is 0), then S[i], on the tensor cores."""
            dscores_QX, dq_QD, last_k_stage, k_stage = state
            plgpu.barrier_wait(k_full.at[k_stage])
            take_turns()
            dq_QD, scores_QX = multiply_add(
                (dq_QD, [(dscores_QX, k_s.at[last_k_stage])]),
                (zeros(ROWS, size), [(q_s.at[rows], k_s.at[k_stage].T)]),
                interpret=interpret,
                when_issued=take_turns,
            )
            pl.when(i > 0)(lambda: plgpu.barrier_arrive(k_free.at[last_k_stage]))
            return dscores(i, scores_QX), dq_QD, k_stage, jnp.where(k_stage == k_stages - 1, 0, k_stage + 1)

        plgpu.barrier_wait(queries_full)
        pl.when(warpgroup == 1)(take_turns)
        state = (zeros(ROWS, size).astype(jnp.bfloat16), zeros(ROWS, KEY_WIDTH), jnp.int32(0), jnp.int32(0))
        dscores_QX, dq_QD, k_stage, _ = jax.lax.fori_loop(0, steps, step, state)
        pl.when(warpgroup == 0)(take_turns)
        (dq_QD,) = multiply_add((dq_QD, [(dscores_QX, k_s.at[k_stage])]), interpret=interpret)
        plgpu.barrier_arrive(k_free.at[k_stage])
        dq_s = q_s.at[rows]  # the queries have been read
        dq_s[...] = (dq_QD * scale).astype(dq_s.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(dq_s, dq_NHD.at[queries, head])
        plgpu.wait_smem_to_gmem(0)
