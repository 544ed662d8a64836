"""FLOPs and memory traffic of a training step: what its program executes on one device.

Useful FLOPs are defined in training/flops.py. Executed FLOPs are counted in the traced program (jaxpr): 2 x M x N x K for each matrix product, times
the iterations of its loops, divided by the number of devices that share it. They include rematerialisation, padding and the logits that the loss
recomputes. Attention is counted by the pairs that the chosen kernel computes for the assumed row: forward 2 (Dk + Dv) per pair and query head;
backward 2 (4 Dk + 3 Dv), since scores are recomputed twice, for the gradients of keys and values and for that of queries.
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
from data_pipelines.schema import TOKEN_PIXELS
from neo_jax import config
from neo_jax.attention.api import Kernel

STILL_PIXELS = 1024 * 1024  # largest size of an assumed image; less if the phase has a lower limit
QUERY_TILE = 1024  # queries of an attention tile; every tile reads keys and values again
TEXT_PER_IMAGE = 14  # text tokens before each image or frame: its marks, or its time


@dataclasses.dataclass(frozen=True)
class Row:
    """The full row that a plan assumes.

    Attributes:
      intervals: [L] int32 each.
      visual: number of visual tokens.
      text: description of the row in words.
    """

    intervals: Intervals
    visual: int
    text: str

    @property
    def pairs(self) -> int:
        """Number of attended pairs."""
        return int(attended_pairs(self.intervals))


def assumed_row(phase: config.Phase, documents: int) -> Row:
    """Returns the row that a plan assumes: documents of equal length, each three quarters images, then text.

    The images are frames if the phase has videos. Each follows TEXT_PER_IMAGE text tokens.
    """
    length = phase.context
    pixels = phase.frame_pixels if phase.frames else min(phase.max_pixels, STILL_PIXELS)
    image = min(pixels // TOKEN_PIXELS, length // documents * 3 // 4 - TEXT_PER_IMAGE)
    visual, packed = 0, []
    for start, end in _cut(length, documents):
        images = max(0, (end - start) * 3 // 4 // (TEXT_PER_IMAGE + image)) if image > 0 else 0
        images = min(images, (phase.visual_tokens - visual) // image) if images else 0
        starts = TEXT_PER_IMAGE + (TEXT_PER_IMAGE + image) * np.arange(images)
        packed.append(document_intervals(end - start, starts, np.full(images, image)))
        visual += images * image
    what = f"images of {image} tokens over three quarters of each" if visual else "text"
    return Row(row_intervals(packed, length), visual, f"{documents} documents a row, {what}, no padding")


def _cut(length: int, documents: int) -> list[tuple[int, int]]:
    """Divides a row into documents of equal length; returns (start, end) of each."""
    return list(itertools.pairwise(np.linspace(0, length, documents + 1).astype(int).tolist()))


def busiest_pairs(row: Row, kernel: Kernel, shards: int) -> tuple[float, float]:
    """Returns the largest numbers of computed and of attended pairs, per head and row, on any context shard."""
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
    """FLOPs and memory traffic of one device in one step.

    Attributes:
      products, attention: FLOPs of matrix products, and of attention kernels.
      bytes: bytes that these read and write in device memory: each operand and result once, and keys and values again for each tile of queries.
    """

    products: float = 0.0
    attention: float = 0.0
    bytes: float = 0.0

    @property
    def flops(self) -> float:
        return self.products + self.attention


def executed(jaxpr: core.Jaxpr, axis_sizes: dict[str, int], pairs: float) -> Executed:
    """Counts the work of one device in a step.

    Args:
      jaxpr: the step, traced under its mesh.
      axis_sizes: sizes of the mesh axes by name.
      pairs: number of pairs that the attention kernel computes for one head of one row.
    """
    total = Executed()
    _count(jaxpr, 1.0, axis_sizes, pairs, total)
    return total


def _count(jaxpr: core.Jaxpr, times: float, sizes: dict[str, int], pairs: float, total: Executed) -> None:
    """Adds the work of a jaxpr that runs `times` times to `total`."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        called = str(equation.params.get("name", ""))
        if name == "dot_general":
            flops, moved = _product(equation, sizes)
            total.products += times * flops
            total.bytes += times * moved
        elif called in ("attention_forward", "attention_backward"):
            all_arrays = _arrays(equation)
            arrays = [array for array in all_arrays if len(array.shape) == 4]
            if len(arrays) < 3:
                continue  # a part with constants only, split off by rematerialisation
            (rows, _, heads, _), (*_, width), (*_, value_width) = (array.shape for array in arrays[:3])
            forward = called == "attention_forward"
            total.attention += times * 2 * rows * heads * pairs * (width + value_width if forward else 4 * width + 3 * value_width)
            once = sum(array.size * array.dtype.itemsize for array in all_arrays)
            again = rows * heads * pairs / QUERY_TILE * (width + value_width) * arrays[1].dtype.itemsize
            total.bytes += times * (once + (1 if forward else 2) * again)
        else:
            iterations = equation.params["length"] if name == "scan" else 1
            for inner in _inner(equation.params):
                _count(inner, times * iterations, sizes, pairs, total)


def _product(equation: core.JaxprEqn, sizes: dict[str, int]) -> tuple[float, float]:
    """Returns (FLOPs, bytes) of a matrix product on one device. Inside shard_map, shapes are already per device and types name no axis."""
    (left_contracted, right_contracted), (_, right_batch) = equation.params["dimension_numbers"]
    left, right, out = _arrays(equation)
    axes = [_axes_by_dimension(x) for x in (left, right, out)]
    flops = 2.0 * out.size * math.prod(left.shape[axis] for axis in left_contracted)
    flops /= math.prod(sizes[name] for name in set().union(*(names for each in axes for names in each)))
    # A contracted dimension that is sharded in only one operand is gathered before the product.
    common = [axes[0][i] & axes[1][j] for i, j in zip(left_contracted, right_contracted, strict=True)]
    kept_left, kept_right = list(axes[0]), list(axes[1])
    for i, j, names in zip(left_contracted, right_contracted, common, strict=True):
        kept_left[i] = kept_right[j] = names
    shares = [set().union(*kept_left), set().union(*kept_right)]
    free = [kept_left[i] for i in range(left.ndim) if i not in left_contracted]
    free += [kept_right[i] for i in range(right.ndim) if i not in (*right_contracted, *right_batch)]
    shares.append(set().union(*free))  # a product that is sharded further is a partial sum first, which is reduced later
    moved = [
        x.size * x.dtype.itemsize / math.prod(sizes[name] for name in names) for x, names in zip((left, right, out), shares, strict=True)
    ]
    return flops, sum(moved)


def _arrays(equation: core.JaxprEqn) -> list[Any]:
    """Returns the types of the inputs and outputs of an equation."""
    return [variable.aval for variable in (*equation.invars, *equation.outvars)]


def _axes_by_dimension(array: Any) -> list[set[str]]:
    """Returns the mesh axes that each dimension of an array is sharded over."""
    parts = tuple(array.sharding.spec)
    parts += (None,) * (array.ndim - len(parts))
    return [set(part if isinstance(part, tuple) else (part,) if part else ()) for part in parts]


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yields the jaxprs among the parameters of an equation."""
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each
