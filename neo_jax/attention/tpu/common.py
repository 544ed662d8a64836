"""What the forward and the backward kernels share: visiting a tile's squares, masks, products, and what arrays are supported."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from neo_jax.attention.tpu.tiles import LANES, MASKED, SPARSE, WHOLE, Blocks, column_of, row_of

LOG2_E = math.log2(math.e)

LOWEST = -0.7 * float(jnp.finfo(jnp.float32).max)  # a masked score: finite, so that the difference of two is a number
NT = (((1,), (1,)), ((), ()))  # contract the second axes of both, and so on
NN = (((1,), (0,)), ((), ()))
TN = (((0,), (0,)), ((), ()))


def supports(q: jax.Array, k: jax.Array, v: jax.Array) -> str | None:
    """Returns None if the kernels support these arrays, else a message that says why not."""
    if q.dtype not in (jnp.bfloat16, jnp.float32) or not q.dtype == k.dtype == v.dtype:
        return f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, must all be bfloat16 or all float32"
    return None


def visit(step, squares, update, row_tile: int, column_tile: int, square: int, chunks) -> None:
    """Calls `update(rows, columns, masked)` for the parts of the tile that hold attended pairs.

    Args:
      squares: ranges of `list_steps`, in scalar memory.
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
            at = row_of(step) * a_row + r
            left = column_of(step) * a_column
            first, last = (jnp.clip(squares[i * number + at] - left, 0, a_column) for i in range(2))
            rows = pl.ds(pl.multiple_of(r * square, square), square)
            # One program for each number of squares: the compiler overlaps what it knows the size of.
            for count in range(1, a_column + 1):

                @pl.when(last - first == count)
                def _(count=count):
                    update(rows, pl.ds(pl.multiple_of(first * square, square), count * square), True)

        jax.lax.fori_loop(0, a_row, of_strip, None)


def key_chunks(blocks: Blocks):
    return [pl.ds(start, blocks.compute) for start in range(0, blocks.key, blocks.compute)]


def scores(q_ref, k_ref, queries, keys, factor):
    """Scores in powers of two, [X, C]."""
    return matmul(k_ref[keys, :], q_ref[queries, :], NT) * factor


def mask(interval_ref, queries, first_key, keys, shape):
    position = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    at = first_key + keys.start
    return (position >= interval_ref[0:1, queries] - at) & (position < interval_ref[1:2, queries] - at)


def lanes(row):
    """[1, C] -> [C, 128], each number in all lanes of a row."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T


def repeat(x, width):
    """[C, 128], all lanes of a row equal -> [C, width]."""
    return jnp.tile(x, (1, width // LANES))


def matmul(a, b, contract):
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(a, b, contract, precision=precision, preferred_element_type=jnp.float32)


def cost(flops_a_pair: int, q, k, v) -> pl.CostEstimate:
    """For the compiler's scheduling: as if every query saw half of the keys."""
    b, length, heads, _ = q.shape
    pairs = b * heads * length * k.shape[1] // 2
    return pl.CostEstimate(flops=flops_a_pair * pairs, transcendentals=pairs, bytes_accessed=2 * (q.nbytes + k.nbytes + v.nbytes))
