"""Rows over several devices, dealt in pieces or in runs, against the dense reference in float32: values and gradients."""

import functools

import jax
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding

from data_pipelines.batch import Intervals, pieces_of_shard
from data_pipelines.loading.shards import deal
from neo_jax.attention import api, context_parallel
from neo_jax.attention.api import Kernel, interval_attention
from neo_jax.attention.reference import dense_attention
from neo_jax.attention.tpu import Blocks
from neo_jax.sharding import make_mesh, spec
from tests.neo_jax.attention.cases import SCALE, random_intervals

LENGTH, HEADS, KEY_HEADS, WIDTHS = 512, 8, 4, (16, 8)


@functools.cache
def rows():
    """q, k, v, gradient of the output, lo, hi of two packed rows."""
    rng = np.random.default_rng(0)
    shapes = [(2, LENGTH, heads, width) for heads, width in ((HEADS, 16), (KEY_HEADS, 16), (KEY_HEADS, 8), (HEADS, 8))]
    attend = np.stack([random_intervals(LENGTH, rng), random_intervals(LENGTH, rng, longest=LENGTH)])
    return *(rng.standard_normal(shape).astype(np.float32) for shape in shapes), attend[..., 0], attend[..., 1]


@functools.cache
def dense():
    q, k, v, gradient, lo, hi = rows()
    with jax.default_matmul_precision("highest"):
        out, pullback = jax.vjp(lambda q, k, v: dense_attention(q, k, v, Intervals(lo, hi), SCALE), q, k, v)
        return out, *pullback(gradient)


def on_shards(axes, dealt):
    """Output and gradients of q, k, v in the order of the rows, computed on a mesh."""
    arrays = list(rows())
    count = axes["context"] * pieces_of_shard(LENGTH, axes["context"])
    order = np.tile(np.arange(count), (2, 1))
    if dealt:
        costs = (arrays[5] - arrays[4]).reshape(2, count, -1).sum(-1)
        order = np.stack([deal(row, axes["context"]).reshape(-1) for row in costs])
    tokens = (order[..., None] * (LENGTH // count) + np.arange(LENGTH // count)).reshape(2, LENGTH)
    mesh = make_mesh(**axes)
    place = [*[spec("batch", "length", "heads", None)] * 4, *[spec("batch", "length")] * 2]
    arrays = [np.stack([row[own] for row, own in zip(x, tokens, strict=True)]) for x in arrays]
    q, k, v, gradient, lo, hi = (jax.device_put(x, NamedSharding(mesh, at)) for x, at in zip(arrays, place, strict=True))
    pieces = jax.device_put(np.argsort(order).astype(np.int32), NamedSharding(mesh, spec("batch", None))) if dealt else None

    @jax.jit
    def both(q, k, v):
        out, pullback = jax.vjp(lambda q, k, v: interval_attention(q, k, v, Intervals(lo, hi), SCALE, "auto", pieces), q, k, v)
        return out, *pullback(gradient)

    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        results = [np.asarray(x) for x in both(q, k, v)]
    back = np.argsort(tokens)
    return [np.stack([row[own] for row, own in zip(x, back, strict=True)]) for x in results]


def assert_equal(results):
    for name, ours, expected in zip(("out", "dq", "dk", "dv"), results, dense(), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize("dealt", [True, False], ids=["dealt", "runs"])
@pytest.mark.parametrize("axes", [{"context": 8}, {"data": 2, "context": 4}, {"fsdp": 2, "context": 2, "tensor": 2}], ids="-".join)
def test_equals_the_dense_reference(axes, dealt):
    assert_equal(on_shards(axes, dealt))


@pytest.mark.parametrize(("heads", "groups"), [(1, 4), (2, 2)])
def test_heads_are_gathered_in_groups(monkeypatch, heads, groups):
    """The largest array that is gathered holds the keys of so many heads; the numbers are the same."""
    of_head = 2 * LENGTH * sum(WIDTHS) * 4
    monkeypatch.setattr(context_parallel, "GATHERED_BYTES", heads * of_head)
    gathered = []
    gather = context_parallel.gather
    monkeypatch.setattr(context_parallel, "gather", lambda x, pieces: gathered.append(gather(x, pieces)) or gathered[-1])
    assert_equal(on_shards({"context": 8}, dealt=True))
    assert {x.shape[:3] for x in gathered} == {(2, LENGTH, heads)} and len(gathered) == 2 * 2 * groups  # k and v, forward and backward


@pytest.mark.nightly
def test_kernels_for_tpu_need_no_change(monkeypatch):
    kernel = Kernel("tpu", Blocks(128, 128, 128, 128), pltpu.InterpretParams())
    monkeypatch.setattr(api, "choose", lambda *_: kernel)
    assert_equal(on_shards({"data": 2, "context": 4}, dealt=True))
