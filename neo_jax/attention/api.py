"""Attention as the model calls it: one function of (q, k, v, intervals) over whatever mesh is set, and the choice of what computes it."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from data_pipelines.batch import Intervals
from neo_jax.attention import chunked, context_parallel, hopper, tpu
from neo_jax.attention.blocks import blocks_for
from neo_jax.attention.decoding import MAX_DECODE_QUERIES, decode_attention
from neo_jax.attention.intervals import interval_problem
from neo_jax.sharding import spec


class Implementation(NamedTuple):
    """Functions as in chunked.py, which describes them."""

    supports: Callable[..., str | None]
    forward: Callable[..., tuple[jax.Array, jax.Array]]
    backward: Callable[..., tuple[jax.Array, ...]]
    computed_pairs: Callable[..., int]


IMPLEMENTATIONS = {
    "chunked": Implementation(chunked.supports, chunked.forward, chunked.backward, chunked.computed_pairs),
    "tpu": Implementation(tpu.supports, tpu.forward, tpu.backward, tpu.computed_pairs),
    "hopper": Implementation(hopper.supports, hopper.forward, hopper.backward, hopper.computed_pairs),
}
# For rematerialisation: with these kept, the backward pass does not compute attention again.
SAVED_NAMES = ("attention_output", "attention_lse")

log = logging.getLogger(__name__)


class UnsupportedAttentionError(ValueError):
    """The implementation that was asked for cannot do this call; the message says why."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What computes attention: a name in IMPLEMENTATIONS, its block sizes, and whether, and how, it is interpreted (tests)."""

    name: str
    blocks: Any
    interpret: Any = False

    @property
    def implementation(self) -> Implementation:
        return IMPLEMENTATIONS[self.name]


def interval_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    intervals: Intervals,
    scale: float,
    implementation: str = "auto",
    pieces: jax.Array | None = None,
    check: bool = False,
) -> jax.Array:
    """Returns attention [B, L, Hq, Dv] in which query i sees the keys [lo[i], hi[i]) of its row, over whatever mesh is set.

    Queries stay where they are; keys and values are gathered along the `context` axis (context_parallel.py), since intervals name keys of the
    whole row.

    Args:
      q: [B, L, Hq, Dk]; k: [B, S, Hkv, Dk]; v: [B, S, Hkv, Dv], Hq a multiple of Hkv.
      intervals: [B, L] int32 each, lo < hi, neither ever decreasing along the part of a row that a device holds.
      scale: factor on the inner products.
      implementation: "auto": what suits the devices and the arrays; or a name in IMPLEMENTATIONS.
      pieces: [B, P] int32, as in data_pipelines.batch.ModelInputs, where rows were arranged for the shards of the `context` axis.
      check: the devices check the values of the intervals as they run, and stop with the row and the query that is wrong. Slow. Each device
        checks its own queries: lo and hi may decrease from one shard of a row to the next. Where other devices wait for the one that stopped,
        the process is aborted after the sentence.

    Raises:
      ValueError: shapes or types do not fit together.
      UnsupportedAttentionError: `implementation` cannot do this call.
    """
    _check_shapes(q, k, v, intervals)

    shards = jax.sharding.get_abstract_mesh().shape[context_parallel.AXIS]

    def local(q, k, v, intervals, *pieces):
        keys = k.shape[1] * shards
        if check:
            _check_on_device(intervals, keys)
        whole = (jax.ShapeDtypeStruct((x.shape[0], keys, *x.shape[2:]), x.dtype) for x in (k, v))
        kernel = choose(q, *whole, implementation)
        return _attend(q, k, v, intervals, pieces[0] if pieces else None, scale, kernel, shards > 1)[0]

    heads, rows = spec("batch", "length", "heads", None), spec("batch", "length")
    intervals = Intervals(*(jax.sharding.reshard(x, rows) for x in intervals))  # a slice of one token loses its sharding
    arrays, specs = [q, k, v, intervals], [heads, heads, heads, Intervals(rows, rows)]
    if pieces is not None:
        arrays.append(pieces)
        specs.append(spec("batch", None))
    return jax.shard_map(local, in_specs=tuple(specs), out_specs=heads, check_vma=False)(*arrays)


def cached_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, layer: jax.Array, intervals: Intervals, scale: float, check: bool = False
) -> jax.Array:
    """Returns attention [B, L, Hq, Dv] of a few queries to the cache of one layer, over a mesh without `context`. No gradient.

    Args:
      q: [B, L, Hq, Dk], L at most MAX_DECODE_QUERIES.
      k: [N, B, S, Hkv, Dk]; v: [N, B, S, Hkv, Dv]: the caches of all layers.
      layer: index along N.
      intervals, scale, check: as for interval_attention.

    Raises:
      UnsupportedAttentionError: there are more queries, or the mesh divides rows over devices.
    """
    if q.shape[1] > MAX_DECODE_QUERIES:
        raise UnsupportedAttentionError(f"a cache is read by at most {MAX_DECODE_QUERIES} queries a row, these are {q.shape[1]}")
    if (shards := jax.sharding.get_abstract_mesh().shape[context_parallel.AXIS]) > 1:
        raise UnsupportedAttentionError(f"caches are not divided over devices: decode on a mesh with context 1, not {shards}")

    def local(q, k, v, layer, intervals):
        if check:
            _check_on_device(intervals, k.shape[2])
        return decode_attention(q, k, v, layer, intervals, scale)

    heads, caches = spec("batch", "length", "heads", None), spec(None, "batch", "length", "heads", None)
    rows = spec("batch", "length")
    intervals = Intervals(*(jax.sharding.reshard(x, rows) for x in intervals))
    in_specs = (heads, caches, caches, spec(), Intervals(rows, rows))
    return jax.shard_map(local, in_specs=in_specs, out_specs=heads, check_vma=False)(q, k, v, layer, intervals)


def attention_with_lse(q, k, v, intervals: Intervals, scale: float, kernel: Kernel) -> tuple[jax.Array, jax.Array]:
    """The same on one device, with the log-sum-exp of the scaled scores [B, Hq, L], float32; both can be differentiated."""
    _check_shapes(q, k, v, intervals)
    return _attend(q, k, v, intervals, None, scale, kernel, False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(q, k, v, intervals: Intervals, pieces, scale, kernel: Kernel, spread: bool):
    """`spread`: k and v are this device's part of rows that are spread over the context axis."""

    @jax.jit  # a part of the program with a name: for profiles, and for planning.costs
    def attention_forward(*arrays):
        return kernel.implementation.forward(*arrays, scale, kernel.blocks, kernel.interpret)

    if spread:
        return context_parallel.forward(attention_forward, q, k, v, intervals, pieces)
    return attention_forward(q, k, v, intervals)


def _attend_forward(q, k, v, intervals: Intervals, pieces, scale, kernel: Kernel, spread: bool):
    results = _attend(q, k, v, intervals, pieces, scale, kernel, spread)
    out, lse = (checkpoint_name(x, name) for x, name in zip(results, SAVED_NAMES, strict=True))
    return (out, lse), (q, k, v, intervals, pieces, out, lse)


def _attend_backward(scale, kernel: Kernel, spread: bool, residuals, gradients):
    q, k, v, intervals, pieces, out, lse = residuals
    d_out, d_lse = gradients
    delta = jnp.einsum("blhv,blhv->bhl", d_out.astype(jnp.float32), out.astype(jnp.float32)) - d_lse

    @jax.jit
    def attention_backward(*arrays):
        return kernel.implementation.backward(*arrays, scale, kernel.blocks, kernel.interpret)

    if spread:
        backward = context_parallel.backward(attention_backward, q, k, v, intervals, pieces, lse, delta, d_out)
    else:
        backward = attention_backward(q, k, v, intervals, lse, delta, d_out)
    return *backward, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def choose(q: jax.Array, k: jax.Array, v: jax.Array, implementation: str = "auto") -> Kernel:
    """The kernel for these (local) arrays on the devices of the mesh that is set, or on the default ones.

    Raises:
      UnsupportedAttentionError: `implementation` cannot do this call.
    """
    if implementation not in ("auto", *IMPLEMENTATIONS):
        raise UnsupportedAttentionError(f"no attention {implementation!r}: it must be auto, {', '.join(IMPLEMENTATIONS)}")
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind, platform = (device.device_kind, device.platform) if device else (jax.devices()[0].device_kind, jax.devices()[0].platform)
    reasons = {name: _unsuited(name, kind, platform, q, k, v) for name in IMPLEMENTATIONS}
    if implementation == "auto":
        implementation = next(name for name in ("tpu", "hopper", "chunked") if reasons[name] is None)
    elif reason := reasons[implementation]:
        raise UnsupportedAttentionError(f'attention "{implementation}" cannot be used here: {reason}; set it to "auto"')
    blocks = blocks_for(implementation, kind, k.shape, v.shape)
    _announce(f"{implementation} ({blocks}) on {kind}, {q.dtype}, {q.shape[2]} heads over {k.shape[2]}, {k.shape[3]} and {v.shape[3]} wide")
    return Kernel(implementation, blocks)


def _unsuited(name: str, kind: str, platform: str, q, k, v) -> str | None:
    needed = {"tpu": ("TPU",), "hopper": ("H100", "H200", "H800", "GH200", "H20")}.get(name)
    if needed and not any(word in kind for word in needed):
        return f"the devices are {kind} ({platform}), it needs {' or '.join(needed)}"
    return IMPLEMENTATIONS[name].supports(q, k, v)


@functools.cache
def _announce(choice: str) -> None:
    log.info("attention: %s", choice)


def _check_shapes(q, k, v, intervals: Intervals) -> None:
    lo, hi = intervals
    if not (q.ndim == k.ndim == v.ndim == 4 and lo.ndim == hi.ndim == 2):
        raise ValueError(
            f"q, k, v {q.shape}, {k.shape}, {v.shape} must have 4 axes (row, token, head, width); lo, hi {lo.shape}, {hi.shape} 2"
        )
    if not q.shape[0] == k.shape[0] == v.shape[0] or lo.shape != q.shape[:2] or hi.shape != q.shape[:2]:
        raise ValueError(f"q {q.shape}, k {k.shape}, v {v.shape}, lo {lo.shape} and hi {hi.shape} differ in rows or queries")
    if 0 in (*q.shape, *k.shape, *v.shape):
        raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} must have at least one row, token, head and channel")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k {k.shape} and v {v.shape} must have the same keys and heads")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key heads")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"queries are {q.shape[3]} wide, keys {k.shape[3]}: they must agree")
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}: they must be of one floating type")
    if lo.dtype != jnp.int32 or hi.dtype != jnp.int32:
        raise ValueError(f"lo and hi are {lo.dtype} and {hi.dtype}: they must be int32")


def _check_on_device(intervals: Intervals, keys: int) -> None:
    rows, length = intervals.lo.shape
    first_row, first_query = jax.lax.axis_index(("data", "fsdp")) * rows, jax.lax.axis_index("context") * length
    jax.debug.callback(functools.partial(_raise_problem, keys=keys), *intervals, first_row, first_query)


def _raise_problem(lo: np.ndarray, hi: np.ndarray, first_row: int, first_query: int, keys: int) -> None:
    if problem := interval_problem(Intervals(np.asarray(lo), np.asarray(hi)), keys, int(first_row), int(first_query)):
        raise ValueError(problem)
