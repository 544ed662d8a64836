"""The forward kernel: a tile of queries visits its tiles of keys."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from data_pipelines.batch import Intervals
from neo_jax.attention.tpu.common import LOG2_E, LOWEST, NN, NT, cost, key_chunks, lanes, matmul, repeat, visit
from neo_jax.attention.tpu.tiles import LANES, Blocks, TilePlan, column_of, is_first, is_last, row_of


def forward(q, k, v, intervals: Intervals, scale: float, blocks: Blocks, interpret=False) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, V] and log-sum-exp [B, H, L] (float32, natural logarithm) of q [B, L, H, D], k [B, S, K, D], v [B, S, K, V]."""
    heads, groups = q.shape[2], q.shape[2] // k.shape[2]
    plan = TilePlan(q.shape, k.shape, intervals, blocks)
    blocks = plan.blocks
    steps, count, squares = plan.of_queries()
    q_HND, k_KSD, v_KSV = plan.queries(q), plan.keys(k), plan.keys(v)
    _, n, width = q_HND.shape
    value_width = v_KSV.shape[-1]
    out_HNV, lse_H1N = pl.pallas_call(
        functools.partial(_forward_kernel, factor=scale * LOG2_E, blocks=blocks),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(heads, count),
            in_specs=[
                pl.BlockSpec((None, blocks.query, width), lambda h, t, steps, _: (h, row_of(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, width), lambda h, t, steps, _: (h // groups, column_of(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, value_width), lambda h, t, steps, _: (h // groups, column_of(steps[t]), 0)),
                pl.BlockSpec((2, blocks.query), lambda h, t, steps, _: (0, row_of(steps[t]))),
            ],
            out_specs=[
                pl.BlockSpec((None, blocks.query, value_width), lambda h, t, steps, _: (h, row_of(steps[t]), 0)),
                pl.BlockSpec((None, 1, blocks.query), lambda h, t, steps, _: (h, 0, row_of(steps[t]))),
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
        cost_estimate=cost(2 * (width + value_width), q, k, v),
        interpret=interpret,
        name="interval_attention_forward",
    )(steps, squares, q_HND, k_KSD, v_KSV, jnp.stack([plan.lo, plan.hi]))
    lse_BHL1 = plan.unflatten(lse_H1N.swapaxes(1, 2), (*q.shape[:3], 1)).swapaxes(1, 2)
    return plan.unflatten(out_HNV, (*q.shape[:3], v.shape[-1])), lse_BHL1[..., 0] / LOG2_E


def _forward_kernel(
    steps, squares, q_ref, k_ref, v_ref, interval_ref, out_ref, lse_ref, maximum, total, accumulator, first_key, end_key,
    *, factor, blocks: Blocks,
):  # fmt: skip
    step = steps[pl.program_id(1)]

    @pl.when(is_first(step))
    def _():
        maximum[...] = jnp.full_like(maximum, LOWEST)
        total[...] = jnp.zeros_like(total)
        accumulator[...] = jnp.zeros_like(accumulator)
        first_key[...] = lanes(interval_ref[0:1, :])
        end_key[...] = lanes(interval_ref[1:2, :])

    def update(queries, keys, masked):
        s_CX = matmul(q_ref[queries, :], k_ref[keys, :], NT) * factor
        if masked:
            position = jax.lax.broadcasted_iota(jnp.int32, s_CX.shape, 1)
            at = column_of(step) * blocks.key + keys.start
            lo, hi = (repeat(x[queries, :] - at, s_CX.shape[1]) for x in (first_key, end_key))
            s_CX = jnp.where((position >= lo) & (position < hi), s_CX, LOWEST)
        old = maximum[queries, :]
        new = jnp.maximum(old, s_CX.max(axis=1, keepdims=True))
        p_CX = jnp.exp2(s_CX - repeat(new, s_CX.shape[1]))
        correction = jnp.exp2(old - new)
        maximum[queries, :] = new
        total[queries, :] = correction * total[queries, :] + p_CX.sum(axis=1, keepdims=True)
        weighted_CV = matmul(p_CX.astype(v_ref.dtype), v_ref[keys, :], NN)
        accumulator[queries, :] = repeat(correction, weighted_CV.shape[1]) * accumulator[queries, :] + weighted_CV

    visit(step, squares, update, blocks.query, blocks.key, blocks.square, [(pl.ds(0, blocks.query), keys) for keys in key_chunks(blocks)])

    @pl.when(is_last(step))
    def _():
        out_ref[...] = (accumulator[...] * repeat(1 / total[...], accumulator.shape[1])).astype(out_ref.dtype)
        lse_ref[...] = (maximum[...] + jnp.log2(total[...])).T[0:1, :]
