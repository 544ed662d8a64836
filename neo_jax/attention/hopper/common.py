"""What the forward and the backward kernels share: sizes, registers, layouts, products on the tensor cores, launching."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from data_pipelines.batch import Intervals
from neo_jax.attention.intervals import flatten, query_tiles, visited_pairs

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


def computed_pairs(intervals: Intervals, keys: int, blocks: Blocks) -> int:
    """Pairs of a query and a key that the forward pass computes for one head, attended or not; intervals [B, L] over rows of `keys` keys."""
    tiles = query_tiles(*flatten(intervals, keys, QUERY_TILE), QUERY_TILE, blocks.forward_keys)
    return int(visited_pairs(tiles, QUERY_TILE, blocks.forward_keys))


def supports(q: jax.Array, k: jax.Array, v: jax.Array) -> str | None:
    """Returns None if the kernels support these arrays, else a message that says why not."""
    for name, array, width in (("q", q, KEY_WIDTH), ("k", k, KEY_WIDTH), ("v", v, VALUE_WIDTH)):
        if array.dtype != jnp.bfloat16:
            return f"{name} is {array.dtype}; the Hopper kernels compute in bfloat16"
        if array.shape[-1] != width:
            return f"{name} is {array.shape[-1]} wide; the Hopper kernels want {width}"
    if q.shape[2] % k.shape[2]:
        return f"{q.shape[2]} query heads cannot share {k.shape[2]} key heads evenly"
    return None


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
    """For each term (c, pairs), returns c + the sum of a @ b; c and arrays a in registers, b and references a in shared memory.

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
