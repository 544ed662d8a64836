"""The model's input: rows and batches of rows as typed tuples. Uses numpy only; jax takes the tuples as pytrees.

Shape legend: B rows, L tokens of a row, V visual tokens, P pieces of a row divided for context shards. A row has the same fields without B.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.schema import VISUAL_TOKEN_BYTES

Array = Any  # numpy on the host, jax on the devices

BATCHES_AHEAD = 2  # batches that the loader copies to the devices before they are requested: one complete, one in progress
MIN_PIECES, MAX_PIECES = 6, 20  # pieces of a shard; more pieces balance better but split the tiles of attention kernels more often
ALIGNMENTS = (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1)  # tokens; a tile of queries inside one piece attends to few keys


class Intervals(NamedTuple):
    """The keys that each query attends to: [lo, hi) of its row, with lo < hi. Neither lo nor hi decreases along a row.

    Attributes:
      lo, hi: [B, L] int32.
    """

    lo: Array
    hi: Array


class ModelInputs(NamedTuple):
    """Inputs of the forward pass.

    Attributes:
      tokens: [B, L] int32 ids.
      positions: [B, L, 3] int32: t, h, w of each token.
      intervals: [B, L] each: the keys that each token attends to. A padding token attends to itself, so that no softmax is empty.
      visual_slot: [B, L] int32: index into the visual tokens of the row (of the token's own context shard), or -1.
      visual: [B, V, 3072] uint8: pixels of visual tokens, in order; unused entries are zeros. With several context shards: the first shard's
        visual tokens, then the second's and so on; each shard has `visual_room` entries.
      visual_position: [B, V, 2] int32: row and column of each visual token in its image, in visual tokens.
      pieces: [B, P] int32 with several context shards: position of piece p of the row, counted in pieces, in the concatenation of the
        shards; else None.
    """

    tokens: Array
    positions: Array
    intervals: Intervals
    visual_slot: Array
    visual: Array
    visual_position: Array
    pieces: Array | None = None


class Batch(NamedTuple):
    """Inputs of a training step.

    Attributes:
      inputs: inputs of the forward pass.
      targets: [B, L] int32, already shifted: targets[i] is the label of position i + 1; 0 if there is none.
      loss_weights: [B, L] float32: weight of predicting targets[i] at position i; 0 if there is no label.
      source: [B, L] int32: index of each token's source, in the order of the configuration's sources; -1 for padding.
    """

    inputs: ModelInputs
    targets: Array
    loss_weights: Array
    source: Array


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Shape and type of one array."""

    shape: tuple[int, ...]
    dtype: type


def batch_spec(rows: int, context: int, visual_tokens: int, shards: int = 1) -> Batch:
    """Returns a Batch of ArraySpec: the shape and type of every array of a batch whose rows are divided for `shards` context shards."""
    room = shards * visual_room(context, visual_tokens, shards) if shards > 1 else visual_tokens
    per_token, triple = ArraySpec((rows, context), np.int32), ArraySpec((rows, context, 3), np.int32)
    pieces = ArraySpec((rows, shards * pieces_of_shard(context, shards)), np.int32) if shards > 1 else None
    inputs = ModelInputs(
        tokens=per_token,
        positions=triple,
        intervals=Intervals(per_token, per_token),
        visual_slot=per_token,
        visual=ArraySpec((rows, room, VISUAL_TOKEN_BYTES), np.uint8),
        visual_position=ArraySpec((rows, room, 2), np.int32),
        pieces=pieces,
    )
    return Batch(inputs, per_token, ArraySpec((rows, context), np.float32), per_token)


def map_arrays(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Returns a tuple of the type of `first`: each array becomes function(array, *the corresponding arrays of `others`); None stays None."""
    if first is None:
        return None
    if isinstance(first, tuple):
        return type(first)(*(map_arrays(function, *parts) for parts in zip(first, *others, strict=True)))
    return function(first, *others)


def arrays(batch: Any) -> Iterator[tuple[str, Any]]:
    """Yields (name, array) for every array of a Batch, ModelInputs or Intervals, in order."""
    for name, value in zip(batch._fields, batch, strict=True):
        if isinstance(value, tuple):
            yield from arrays(value)
        elif value is not None:
            yield name, value


def stack(rows: Sequence[Any]) -> Any:
    """Stacks rows into a batch: every array gets a leading dimension of rows."""
    return map_arrays(lambda *parts: np.stack(parts), *rows)


def document_intervals(length: int, starts: npt.ArrayLike, sizes: npt.ArrayLike) -> Intervals:
    """Returns the intervals [L] of one document: a token attends to itself and earlier tokens, an image token also to its whole image (NEO, eq. 7).

    Only this function defines the mask: packing, prompts, plans and benchmarks call it.

    Args:
      length: number of tokens of the document.
      starts, sizes: first token and number of visual tokens of each image; images lie within the document and do not overlap.
    """
    starts, sizes = np.asarray(starts, np.int64), np.asarray(sizes, np.int64)
    hi = np.arange(1, length + 1, dtype=np.int32)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    hi[np.repeat(starts, sizes) + within] = np.repeat(starts + sizes, sizes)
    return Intervals(np.zeros(length, np.int32), hi)


def row_intervals(documents: Sequence[Intervals], length: int, start: int = 0) -> Intervals:
    """Returns the intervals [L] of a row: consecutive documents from token `start` on; every other token attends to itself only."""
    lo = np.arange(length, dtype=np.int32)
    hi = lo + 1
    for document in documents:
        end = start + len(document.lo)
        lo[start:end], hi[start:end] = document.lo + start, document.hi + start
        start = end
    return Intervals(lo, hi)


def attended_pairs(intervals: Intervals, axis: int | None = None) -> Any:
    """Returns the number of attended pairs (query, key), summed over all queries or along an axis."""
    return (np.asarray(intervals.hi, np.int64) - intervals.lo).sum(axis=axis)


def pieces_of_shard(context: int, shards: int) -> int:
    """Returns the number of pieces of each shard of a row of `context` tokens, a multiple of `shards`."""
    length = context // shards
    for alignment in ALIGNMENTS:
        for count in range(MIN_PIECES, MAX_PIECES + 1):
            if length % (count * alignment) == 0:
                return count
    return max(count for count in range(1, MIN_PIECES) if length % count == 0)


def visual_room(context: int, visual_tokens: int, shards: int) -> int:
    """Returns the capacity of a context shard in visual tokens: enough for any assignment of pieces."""
    return min(visual_tokens, context // shards)
