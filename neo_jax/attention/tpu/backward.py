"""The backward kernels, dK/dV and dQ, on scores transposed: keys x queries.

What belongs to a query (lo, hi, log-sum-exp, delta) is then one row that broadcasts over sublanes for nothing."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from data_pipelines.batch import Intervals
from neo_jax.attention.tpu.common import LOG2_E, NN, NT, TN, cost, key_chunks, mask, matmul, scores, visit
from neo_jax.attention.tpu.tiles import Blocks, TilePlan, column_of, is_first, is_last, row_of


def backward(q, k, v, intervals: Intervals, lse, delta, d_out, scale: float, blocks: Blocks, interpret=False) -> tuple[jax.Array, ...]:
    """Gradients of q, k and v.

    Args:
      lse: [B, H, L], of `forward`.
      delta: [B, H, L] float32, the sum over V of output x gradient, less the gradient of the log-sum-exp.
      d_out: [B, L, H, V], gradient of the output.
    """
    heads, key_heads = q.shape[2], k.shape[2]
    groups = heads // key_heads
    plan = TilePlan(q.shape, k.shape, intervals, blocks)
    blocks = plan.blocks
    q_HND, k_KSD, v_KSV, g_HNV = plan.queries(q), plan.keys(k), plan.keys(v), plan.queries(d_out)
    width, value_width = q_HND.shape[-1], v_KSV.shape[-1]
    statistics_H2N = jnp.stack([plan.of_query(lse * LOG2_E), plan.of_query(delta)], axis=1)
    arrays = (q_HND, k_KSD, v_KSV, g_HNV, statistics_H2N, jnp.stack([plan.lo, plan.hi]))
    factor = scale * LOG2_E

    steps, count, squares = plan.of_keys()
    dk_KSD, dv_KSV = pl.pallas_call(
        functools.partial(_key_gradient_kernel, factor=factor, scale=scale, blocks=blocks, groups=groups),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(key_heads, count, groups),
            in_specs=[
                pl.BlockSpec((None, blocks.query, width), lambda h, t, g, steps, _: (h * groups + g, column_of(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, width), lambda h, t, g, steps, _: (h, row_of(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, value_width), lambda h, t, g, steps, _: (h, row_of(steps[t]), 0)),
                pl.BlockSpec((None, blocks.query, value_width), lambda h, t, g, steps, _: (h * groups + g, column_of(steps[t]), 0)),
                pl.BlockSpec((None, 2, blocks.query), lambda h, t, g, steps, _: (h * groups + g, 0, column_of(steps[t]))),
                pl.BlockSpec((2, blocks.query), lambda h, t, g, steps, _: (0, column_of(steps[t]))),
            ],
            out_specs=[
                pl.BlockSpec((None, blocks.key, width), lambda h, t, g, steps, _: (h, row_of(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, value_width), lambda h, t, g, steps, _: (h, row_of(steps[t]), 0)),
            ],
            scratch_shapes=[pltpu.VMEM((blocks.key, width), jnp.float32), pltpu.VMEM((blocks.key, value_width), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(k_KSD.shape, k.dtype), jax.ShapeDtypeStruct(v_KSV.shape, v.dtype)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        cost_estimate=cost(4 * (width + value_width), q, k, v),
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
                pl.BlockSpec((None, blocks.query, width), lambda h, t, steps, _: (h, row_of(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, width), lambda h, t, steps, _: (h // groups, column_of(steps[t]), 0)),
                pl.BlockSpec((None, blocks.key, value_width), lambda h, t, steps, _: (h // groups, column_of(steps[t]), 0)),
                pl.BlockSpec((None, blocks.query, value_width), lambda h, t, steps, _: (h, row_of(steps[t]), 0)),
                pl.BlockSpec((None, 2, blocks.query), lambda h, t, steps, _: (h, 0, row_of(steps[t]))),
                pl.BlockSpec((2, blocks.query), lambda h, t, steps, _: (0, row_of(steps[t]))),
            ],
            out_specs=pl.BlockSpec((None, blocks.query, width), lambda h, t, steps, _: (h, row_of(steps[t]), 0)),
            scratch_shapes=[pltpu.VMEM((blocks.query, width), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct(q_HND.shape, q.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=cost(4 * width + 2 * value_width, q, k, v),
        interpret=interpret,
        name="interval_attention_dq",
    )(steps, squares, *arrays)
    return plan.unflatten(dq_HND, q.shape), plan.unflatten(dk_KSD, k.shape), plan.unflatten(dv_KSV, v.shape)


def _key_gradient_kernel(
    steps, squares, q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, dk_ref, dv_ref, dk, dv, *, factor, scale, blocks: Blocks, groups
):  # fmt: skip
    step, group = steps[pl.program_id(1)], pl.program_id(2)

    @pl.when(is_first(step) & (group == 0))
    def _():
        dk[...] = jnp.zeros_like(dk)
        dv[...] = jnp.zeros_like(dv)

    def update(keys, queries, masked):
        at = row_of(step) * blocks.key
        p_XC, ds_XC = _score_gradients(q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, queries, keys, at, factor, masked)
        dv[keys, :] += matmul(p_XC.astype(g_ref.dtype), g_ref[queries, :], NN)
        dk[keys, :] += matmul(ds_XC.astype(q_ref.dtype), q_ref[queries, :], NN)

    visit(step, squares, update, blocks.key, blocks.query, blocks.square, [(keys, pl.ds(0, blocks.query)) for keys in key_chunks(blocks)])

    @pl.when(is_last(step) & (group == groups - 1))
    def _():
        dk_ref[...] = (dk[...] * scale).astype(dk_ref.dtype)
        dv_ref[...] = dv[...].astype(dv_ref.dtype)


def _query_gradient_kernel(
    steps, squares, q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, dq_ref, dq, *, factor, scale, blocks: Blocks
):  # fmt: skip
    step = steps[pl.program_id(1)]

    @pl.when(is_first(step))
    def _():
        dq[...] = jnp.zeros_like(dq)

    def update(queries, keys, masked):
        at = column_of(step) * blocks.key
        _, ds_XC = _score_gradients(q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, queries, keys, at, factor, masked)
        dq[queries, :] += matmul(ds_XC.astype(k_ref.dtype), k_ref[keys, :], TN)

    visit(step, squares, update, blocks.query, blocks.key, blocks.square, [(pl.ds(0, blocks.query), keys) for keys in key_chunks(blocks)])

    @pl.when(is_last(step))
    def _():
        dq_ref[...] = (dq[...] * scale).astype(dq_ref.dtype)


def _score_gradients(q_ref, k_ref, v_ref, g_ref, statistics_ref, interval_ref, queries, keys, first_key, factor, masked):
    """Probabilities and the gradients of the scores (less the factor `scale`), both [X, C]."""
    p_XC = jnp.exp2(scores(q_ref, k_ref, queries, keys, factor) - statistics_ref[0:1, queries])
    if masked:
        p_XC = jnp.where(mask(interval_ref, queries, first_key, keys, p_XC.shape), p_XC, 0.0)
    dp_XC = matmul(v_ref[keys, :], g_ref[queries, :], NT)
    return p_XC, p_XC * (dp_XC - statistics_ref[1:2, queries])
