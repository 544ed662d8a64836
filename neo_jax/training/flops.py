"""Useful FLOPs of a step, from the contents of its batch, and the peak FLOP/s of known chips.

Useful FLOPs count each multiplication and each addition of matrix products once. Per parameter and token: 2 forward, 2 for the gradient of the
input, 2 for the gradient of the weight if it trains. Attention, per query head with A attended pairs: forward 2 (Dk + Dv) A, backward
2 (3 Dk + 2 Dv) A. Padding and rematerialisation are not counted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from data_pipelines.batch import Batch
from neo_jax.chips import CHIPS
from neo_jax.model.freezing import trains

# Dense bfloat16 FLOP/s, from public data sheets, of devices that neo_jax.plan does not know.
OTHER_PEAKS = {"TPU v4": 275e12, "NVIDIA A100-SXM4-80GB": 312e12}
DIGIT = 1024  # attended pairs are summed as digits in this base: their sum over a long row would overflow an int32


def peak(device_kind: str) -> float | None:
    """Returns the dense bfloat16 FLOP/s of a device; None if it is not known (CPUs)."""
    chip = next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)
    return chip.flops if chip else OTHER_PEAKS.get(device_kind)


class RowCounts(NamedTuple):
    """Numbers of tokens, visual tokens and attended pairs in a batch, without padding."""

    tokens: int
    visual: int
    pairs: int


@jax.jit
def count_rows(batch: Batch) -> jax.Array:
    """Counts tokens, visual tokens and attended pairs of each row of a batch on the devices, without padding. Replicated over all devices.

    Returns:
      [rows, 5] int32, or [accumulate, rows, 5]: tokens, visual tokens, and attended pairs as the sums of three digits in base DIGIT, lowest
      first. No sum overflows for rows of up to 2^21 tokens.
    """
    real = batch.source >= 0
    lo, hi = batch.inputs.intervals
    spans = jnp.where(real, hi - lo, 0)
    parts = (real, batch.inputs.visual_slot >= 0, spans % DIGIT, spans // DIGIT % DIGIT, spans // DIGIT**2)
    sums = jnp.stack([part.sum(-1, dtype=jnp.int32) for part in parts], -1)
    return jax.sharding.reshard(sums, PartitionSpec())


def total(rows: np.ndarray) -> RowCounts:
    """Sums the result of `count_rows` over all rows of a batch."""
    tokens, visual, *digits = rows.reshape(-1, 5).sum(0, dtype=np.int64).tolist()
    return RowCounts(tokens, visual, sum(digit * DIGIT**place for place, digit in enumerate(digits)))


def useful(shapes: dict[str, tuple[int, ...]], heads: int, head_dim: int, phase_trains: str, counts: RowCounts) -> float:
    """Returns the useful FLOPs of one training step.

    Args:
      shapes: shape of every parameter, by name (layers stacked).
      heads, head_dim: number of query heads, and their width.
      phase_trains: the phase's setting `trains`.
      counts: counts of all rows of the step.
    """
    tokens, visual, pairs = counts
    total = 0.0
    for name, shape in shapes.items():
        last = name.split(".")[-1]
        if last == "embedding" and "output" in shapes:
            continue  # only looked up, not multiplied
        uses = visual if name.startswith("patch_embedding.") else tokens
        if last.endswith(("norm", "bias")) or "norm_" in last:
            continue
        passes = 3 if trains(name, phase_trains) else 2
        # The patch projection runs once per patch, four a visual token, and needs no gradient of its input: pixels are not trained.
        if last == "patch":
            uses, passes = 4 * visual, passes - 1
        total += 2.0 * passes * math.prod(shape) * uses
    layers = sum(shape[0] for name, shape in shapes.items() if name.endswith(".attention.q"))
    key_width = 2 * head_dim if "base.attention.q_hw" in shapes else head_dim
    return total + 2.0 * heads * layers * pairs * ((key_width + head_dim) + (3 * key_width + 2 * head_dim))
