"""The work of a training step: FLOPs it needs, and FLOPs its program executes on one device.

Useful FLOPs follow training/flops.py. Executed ones are counted in the traced program (jaxpr): 2 x M x N x K for every matrix product, as often
as its loop turns, divided by the devices that share it; rematerialisation, padding and the loss's second logits are in it because they are in
the program. Attention is counted by the pairs that the chosen kernel computes for the rows below: forward 2 (Dk + Dv) a pair and query head,
backward 2 (4 Dk + 3 Dv), the scores being computed again once for keys and values and once for queries.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend import core

from data_pipelines.batch import Intervals, attended_pairs, document_intervals, map_arrays, row_intervals
from data_pipelines.loading.shards import piece_order
from neo_jax import config
from neo_jax.attention.api import Kernel
from neo_jax.config.phase import TOKEN_PIXELS

STILL_PIXELS = 1024 * 1024  # an image, where the phase allows more
QUERY_TILE = 1024  # queries of a tile, for the bytes that attention reads again
MARK = 14  # text tokens in front of each image or frame: its marks, or its time


@dataclasses.dataclass(frozen=True)
class Row:
    """A full row as a plan assumes it.

    Attributes:
      intervals: [L] each.
      visual: its visual tokens.
      text: what it is, in words.
    """

    intervals: Intervals
    visual: int
    text: str

    @property
    def pairs(self) -> int:
        return int(attended_pairs(self.intervals))


def assumed_row(phase: config.Phase, documents: int) -> Row:
    """A row of equal documents: images (frames, where the phase has videos) with MARK text tokens each over three quarters of it, then text."""
    length = phase.context
    pixels = phase.frame_pixels if phase.frames else min(phase.max_pixels, STILL_PIXELS)
    image = min(pixels // TOKEN_PIXELS, length // documents * 3 // 4 - MARK)
    visual, packed = 0, []
    for start, end in _cut(length, documents):
        images = max(0, (end - start) * 3 // 4 // (MARK + image)) if image > 0 else 0
        images = min(images, (phase.visual_tokens - visual) // image) if images else 0
        starts = MARK + (MARK + image) * np.arange(images)
        packed.append(document_intervals(end - start, starts, np.full(images, image)))
        visual += images * image
    what = f"images of {image} tokens over three quarters of each" if visual else "text"
    return Row(row_intervals(packed, length), visual, f"{documents} documents a row, {what}, no padding")


def _cut(length: int, documents: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise(np.linspace(0, length, documents + 1).astype(int).tolist()))


def busiest_pairs(row: Row, kernel: Kernel, shards: int) -> tuple[float, float]:
    """(computed, attended) pairs of one head of a row on the context shard that has most of each."""
    length = len(row.intervals.lo)
    parts = [row.intervals]
    if shards > 1:
        order = piece_order(row.intervals, shards)
        by_shard = map_arrays(lambda x: x.reshape(len(order), -1)[order].reshape(shards, -1), row.intervals)
        parts = [map_arrays(lambda x, shard=shard: x[shard], by_shard) for shard in range(shards)]
    computed = [kernel.implementation.computed_pairs(map_arrays(lambda x: x[None], part), length, kernel.blocks) for part in parts]
    return float(max(computed)), float(max(attended_pairs(part) for part in parts))


@dataclasses.dataclass
class Executed:
    """Work of one device in one step.

    Attributes:
      products, attention: FLOPs of matrix products, and of attention's kernels.
      bytes: that these read and write in device memory, each operand and result once; a tile of queries reads the keys it computes with.
    """

    products: float = 0.0
    attention: float = 0.0
    bytes: float = 0.0

    @property
    def flops(self) -> float:
        return self.products + self.attention


def executed(jaxpr: core.Jaxpr, axis_sizes: dict[str, int], pairs: float) -> Executed:
    """What one device executes of a step.

    Args:
      jaxpr: of the step, traced under its mesh.
      axis_sizes: of the mesh.
      pairs: computed by the attention kernel for one head of one row.
    """
    total = Executed()
    _count(jaxpr, 1.0, axis_sizes, pairs, total)
    return total


def _count(jaxpr: core.Jaxpr, times: float, sizes: dict[str, int], pairs: float, total: Executed) -> None:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        called = str(equation.params.get("name", ""))
        if name == "dot_general":
            flops, moved = _product(equation, sizes)
            total.products += times * flops
            total.bytes += times * moved
        elif called in ("attention_forward", "attention_backward"):
            everything = _arrays(equation)
            arrays = [array for array in everything if len(array.shape) == 4]
            if len(arrays) < 3:
                continue  # constants that rematerialisation split off
            (rows, _, heads, _), (*_, width), (*_, value_width) = (array.shape for array in arrays[:3])
            forward = called == "attention_forward"
            total.attention += times * 2 * rows * heads * pairs * (width + value_width if forward else 4 * width + 3 * value_width)
            once = sum(array.size * array.dtype.itemsize for array in everything)
            again = rows * heads * pairs / QUERY_TILE * (width + value_width) * arrays[1].dtype.itemsize
            total.bytes += times * (once + (1 if forward else 2) * again)
        else:
            turns = equation.params["length"] if name == "scan" else 1
            for inner in _inner(equation.params):
                _count(inner, times * turns, sizes, pairs, total)


def _product(equation: core.JaxprEqn, sizes: dict[str, int]) -> tuple[float, float]:
    """(FLOPs, bytes) of a matrix product on one device. Inside shard_map types are those of a device, and name no axis."""
    (left_contracted, right_contracted), (_, right_batch) = equation.params["dimension_numbers"]
    left, right, out = _arrays(equation)
    axes = [_axes_by_dimension(x) for x in (left, right, out)]
    flops = 2.0 * out.size * math.prod(left.shape[axis] for axis in left_contracted)
    flops /= math.prod(sizes[name] for name in set().union(*(names for each in axes for names in each)))
    # A contracted dimension that only one operand has spread is gathered before the product.
    together = [axes[0][i] & axes[1][j] for i, j in zip(left_contracted, right_contracted, strict=True)]
    kept_left, kept_right = list(axes[0]), list(axes[1])
    for i, j, names in zip(left_contracted, right_contracted, together, strict=True):
        kept_left[i] = kept_right[j] = names
    shares = [set().union(*kept_left), set().union(*kept_right)]
    free = [kept_left[i] for i in range(left.ndim) if i not in left_contracted]
    free += [kept_right[i] for i in range(right.ndim) if i not in (*right_contracted, *right_batch)]
    shares.append(set().union(*free))  # what is spread further is added up over devices first
    moved = [
        x.size * x.dtype.itemsize / math.prod(sizes[name] for name in names) for x, names in zip((left, right, out), shares, strict=True)
    ]
    return flops, sum(moved)


def _arrays(equation: core.JaxprEqn) -> list[Any]:
    """Types of what an equation reads and writes."""
    return [variable.aval for variable in (*equation.invars, *equation.outvars)]


def _axes_by_dimension(array: Any) -> list[set[str]]:
    parts = tuple(array.sharding.spec)
    parts += (None,) * (array.ndim - len(parts))
    return [set(part if isinstance(part, tuple) else (part,) if part else ()) for part in parts]


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each
