"""The kernel of the keys' and values' gradients; hopper/backward.py describes it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from neo_jax.attention.hopper.common import (
    CONSUMER_REGISTERS,
    KEY_WIDTH,
    LOG2_E,
    MATRIX,
    PER_COLUMN,
    PRODUCER_REGISTERS,
    ROWS,
    VALUE_WIDTH,
    drain,
    launch,
    multiply,
    multiply_add,
    shared,
    zeros,
)
from neo_jax.attention.intervals import key_tiles

WEIGHT_STAGES = 2


def gradients_of_keys_and_values(q_NHD, k_MKD, v_MKV, gradient_NHV, lse_HN, delta_HN, lo_N, hi_N, scale, blocks, interpret):
    keys, key_heads, _ = k_MKD.shape
    size, stages = blocks.dkv_queries, blocks.dkv_stages
    ranges = jnp.stack(key_tiles(lo_N, hi_N, size, ROWS, keys))
    return plgpu.kernel(
        functools.partial(_dkv_kernel, scale=scale, size=size, stages=stages, interpret=bool(interpret)),
        out_type=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_MKD, v_MKV)),
        scratch_types=dict(
            k_halves=[shared(ROWS, KEY_WIDTH // 2)] * 2,
            v_s=shared(ROWS, VALUE_WIDTH),
            q_s=shared(stages, size, KEY_WIDTH),
            gradient_s=shared(stages, size, VALUE_WIDTH),
            weights_s=shared(WEIGHT_STAGES, ROWS, size),
            lse_s=plgpu.SMEM((stages, size), jnp.float32),
            delta_s=plgpu.SMEM((stages, size), jnp.float32),
            lo_s=plgpu.SMEM((stages, size), jnp.int32),
            hi_s=plgpu.SMEM((stages, size), jnp.int32),
            k_full=plgpu.Barrier(num_arrivals=2),
            v_full=plgpu.Barrier(),
            q_full=plgpu.Barrier(num_arrivals=4, num_barriers=stages),
            gradient_full=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            q_free=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            gradient_free=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            weights_full=plgpu.Barrier(num_barriers=WEIGHT_STAGES),
            weights_free=plgpu.Barrier(num_barriers=WEIGHT_STAGES),
        ),
        kernel_name="interval_attention_dkv",
        **launch(key_heads, keys // ROWS, interpret=interpret),
    )(q_NHD, k_MKD, v_MKV, gradient_NHV, lse_HN, delta_HN, lo_N, hi_N, ranges)


def _dkv_kernel(
    q_NHD, k_MKD, v_MKV, gradient_NHV, lse_HN, delta_HN, lo_N, hi_N, ranges, dk_MKD, dv_MKV, *,
    k_halves, v_s, q_s, gradient_s, weights_s, lse_s, delta_s, lo_s, hi_s,
    k_full, v_full, q_full, gradient_full, q_free, gradient_free, weights_full, weights_free, scale, size, stages, interpret,
):  # fmt: skip
    key_head, tile = jax.lax.axis_index("key_head"), jax.lax.axis_index("tile")
    warpgroup = jax.lax.axis_index("warpgroup")
    group = q_NHD.shape[1] // k_MKD.shape[1]
    first, last, full_first, full_last = (ranges[i, tile] for i in range(4))
    keys = pl.ds(tile * ROWS, ROWS)
    steps = (last - first) * group

    def query_tile(i):
        return first + jax.lax.div(i, group)

    @pl.when(warpgroup == 2)
    def producer():
        plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")
        for half, k_half in enumerate(k_halves):
            columns = pl.ds(half * KEY_WIDTH // 2, KEY_WIDTH // 2)
            plgpu.copy_gmem_to_smem(k_MKD.at[keys, key_head, columns], k_half, k_full)
        plgpu.copy_gmem_to_smem(v_MKV.at[keys, key_head], v_s, v_full)

        @pl.loop(0, steps)
        def _(i):
            head, queries = key_head * group + jax.lax.rem(i, group), pl.ds(query_tile(i) * size, size)
            stage = jax.lax.rem(i, stages)
            pl.when(i >= stages)(lambda: plgpu.barrier_wait(q_free.at[stage]))
            plgpu.copy_gmem_to_smem(q_NHD.at[queries, head], q_s.at[stage], q_full.at[stage])
            plgpu.copy_gmem_to_smem(lse_HN.at[head, queries], lse_s.at[stage], q_full.at[stage])
            plgpu.copy_gmem_to_smem(lo_N.at[queries], lo_s.at[stage], q_full.at[stage])
            plgpu.copy_gmem_to_smem(hi_N.at[queries], hi_s.at[stage], q_full.at[stage])
            pl.when(i >= stages)(lambda: plgpu.barrier_wait(gradient_free.at[stage]))
            plgpu.copy_gmem_to_smem(gradient_NHV.at[queries, head], gradient_s.at[stage], gradient_full.at[stage])
            plgpu.copy_gmem_to_smem(delta_HN.at[head, queries], delta_s.at[stage], gradient_full.at[stage])

        drain(steps, stages, q_free, gradient_free)

    def by_column(array_s, stage):
        x = plgpu.load(array_s.at[stage], layout=PER_COLUMN, optimized=False)
        return jax.lax.broadcast_in_dim(x, (ROWS, size), [1])

    def save(gradient, array_s, array):
        array_s[...] = gradient.astype(array_s.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(array_s, array.at[keys, key_head])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(warpgroup == 0)
    def weights_and_values():
        plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")
        plgpu.barrier_wait(k_full)

        def keys_and_queries(stage):
            return [(k_half, q_s.at[stage, :, pl.ds(half * KEY_WIDTH // 2, KEY_WIDTH // 2)].T) for half, k_half in enumerate(k_halves)]

        def masked(weights_XQ, stage):
            key = tile * ROWS + plgpu.broadcasted_iota(jnp.int32, weights_XQ.shape, 0, layout=MATRIX)
            return jnp.where((key >= by_column(lo_s, stage)) & (key < by_column(hi_s, stage)), weights_XQ, 0.0)

        def weights(i, scores_XQ):
            """Weights of tile i, handed to the other warpgroup."""
            stage, weights_stage = jax.lax.rem(i, stages), jax.lax.rem(i, WEIGHT_STAGES)
            weights_XQ = jnp.exp2(scores_XQ * (scale * LOG2_E) - by_column(lse_s, stage))
            needs_mask = (query_tile(i) < full_first) | (query_tile(i) >= full_last)
            weights_XQ = jax.lax.cond(needs_mask, lambda: masked(weights_XQ, stage), lambda: weights_XQ).astype(jnp.bfloat16)
            pl.when(i >= WEIGHT_STAGES)(lambda: plgpu.barrier_wait(weights_free.at[weights_stage]))
            weights_s[weights_stage] = weights_XQ
            plgpu.commit_smem()
            plgpu.barrier_arrive(weights_full.at[weights_stage])
            plgpu.barrier_arrive(q_free.at[stage])
            plgpu.barrier_wait(gradient_full.at[stage])
            return weights_XQ

        def step(i, state):
            """Computes the weights P of tile i, then issues dv += P[i] dO[i] and S[i + 1] on the tensor cores."""
            scores_XQ, dv_XV = state
            weights_XQ = weights(i, scores_XQ)
            stage, next_stage = jax.lax.rem(i, stages), jax.lax.rem(i + 1, stages)
            plgpu.barrier_wait(q_full.at[next_stage])
            dv_XV, scores_XQ = multiply_add(
                (dv_XV, [(weights_XQ, gradient_s.at[stage])]), (zeros(ROWS, size), keys_and_queries(next_stage)), interpret=interpret
            )
            plgpu.barrier_arrive(gradient_free.at[stage])
            return scores_XQ, dv_XV

        def all_steps():
            plgpu.barrier_wait(q_full.at[0])
            scores_XQ = multiply(keys_and_queries(0))
            scores_XQ, dv_XV = jax.lax.fori_loop(0, steps - 1, step, (scores_XQ, zeros(ROWS, VALUE_WIDTH)))
            weights_XQ, stage = weights(steps - 1, scores_XQ), jax.lax.rem(steps - 1, stages)
            (dv_XV,) = multiply_add((dv_XV, [(weights_XQ, gradient_s.at[stage])]), interpret=interpret)
            plgpu.barrier_arrive(gradient_free.at[stage])
            drain(steps, WEIGHT_STAGES, weights_free)
            return dv_XV

        save(jax.lax.cond(steps > 0, all_steps, lambda: zeros(ROWS, VALUE_WIDTH)), k_halves[0], dv_MKV)  # no one else reads the keys

    @pl.when(warpgroup == 1)
    def scores_and_keys():
        plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")
        plgpu.barrier_wait(v_full)

        def dscores(i, dweights_XQ):
            stage, weights_stage = jax.lax.rem(i, stages), jax.lax.rem(i, WEIGHT_STAGES)
            difference_XQ = dweights_XQ - by_column(delta_s, stage)
            plgpu.barrier_wait(weights_full.at[weights_stage])
            weights_XQ = plgpu.load(weights_s.at[weights_stage], layout=MATRIX)
            plgpu.barrier_arrive(weights_free.at[weights_stage])
            plgpu.commit_smem()
            plgpu.barrier_arrive(gradient_free.at[stage])
            plgpu.barrier_wait(q_full.at[stage])
            return (weights_XQ.astype(jnp.float32) * difference_XQ).astype(jnp.bfloat16)

        def step(i, state):
            """The scores' gradient of tile i; then the keys' gradient and the weights' gradient of tile i + 1."""
            dweights_XQ, dk_XD = state
            dscores_XQ = dscores(i, dweights_XQ)
            stage, next_stage = jax.lax.rem(i, stages), jax.lax.rem(i + 1, stages)
            plgpu.barrier_wait(gradient_full.at[next_stage])
            dk_XD, dweights_XQ = multiply_add(
                (dk_XD, [(dscores_XQ, q_s.at[stage])]), (zeros(ROWS, size), [(v_s, gradient_s.at[next_stage].T)]), interpret=interpret
            )
            plgpu.barrier_arrive(q_free.at[stage])
            return dweights_XQ, dk_XD

        def all_steps():
            plgpu.barrier_wait(gradient_full.at[0])
            dweights_XQ = multiply([(v_s, gradient_s.at[0].T)])
            dweights_XQ, dk_XD = jax.lax.fori_loop(0, steps - 1, step, (dweights_XQ, zeros(ROWS, KEY_WIDTH)))
            dscores_XQ, stage = dscores(steps - 1, dweights_XQ), jax.lax.rem(steps - 1, stages)
            (dk_XD,) = multiply_add((dk_XD, [(dscores_XQ, q_s.at[stage])]), interpret=interpret)
            plgpu.barrier_arrive(q_free.at[stage])
            return dk_XD

        # The other warpgroup read its last queries before it handed over its last weights.
        save(jax.lax.cond(steps > 0, all_steps, lambda: zeros(ROWS, KEY_WIDTH)) * scale, q_s.at[0, pl.ds(0, ROWS)], dk_MKD)
