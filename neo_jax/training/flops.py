"""FLOPs a step needs, from what its batch holds, and the peak of known chips.

Useful FLOPs count each multiplication and addition of matrix products once: 2 per parameter and token forward, 2 for the gradient of the input,
2 for the gradient of a weight where it trains. Attention per query head with A attended pairs: forward 2 (Dk + Dv) A, backward 2 (3 Dk + 2 Dv) A.
Padding counts as nothing, rematerialisation neither.
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
from neo_jax.training.optimizer import trains

# Dense bfloat16 FLOP/s of devices that no plan is made for; public data sheets.
OTHERS = {"TPU v4": 275e12, "NVIDIA A100-SXM4-80GB": 312e12}
DIGIT = 1024  # attended pairs are counted in digits of this base: their sum over a long row exceeds an int32


def peak(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None where it is not known (CPUs)."""
    chip = next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)
    return chip.flops if chip else OTHERS.get(device_kind)


class RowCounts(NamedTuple):
    """What a batch holds, padding left out: tokens, visual tokens, attended pairs."""

    tokens: int
    visual: int
    pairs: int


@jax.jit
def count_rows(batch: Batch) -> jax.Array:
    """Counts what every row of a batch on the devices holds, padding left out; the same in every process.

    Returns:
      [rows, 5] int32, or [accumulate, rows, 5]: tokens, visual tokens, and attended pairs as three digits of base DIGIT, lowest first. Rows of
      up to 2^21 tokens: none of these sums passes an int32.
    """
    real = batch.source >= 0
    lo, hi = batch.inputs.intervals
    spans = jnp.where(real, hi - lo, 0)
    parts = (real, batch.inputs.visual_slot >= 0, spans % DIGIT, spans // DIGIT % DIGIT, spans // DIGIT**2)
    sums = jnp.stack([part.sum(-1, dtype=jnp.int32) for part in parts], -1)
    return jax.sharding.reshard(sums, PartitionSpec())


def total(rows: np.ndarray) -> RowCounts:
    """The counts of a batch from its `count_rows`."""
    tokens, visual, *digits = rows.reshape(-1, 5).sum(0, dtype=np.int64).tolist()
    return RowCounts(tokens, visual, sum(digit * DIGIT**place for place, digit in enumerate(digits)))


def useful(shapes: dict[str, tuple[int, ...]], heads: int, head_dim: int, phase_trains: str, counts: RowCounts) -> float:
    """Useful FLOPs of one training step.

    Args:
      shapes: shape of every parameter by name (layers stacked).
      heads, head_dim: query heads and their width.
      phase_trains: the phase's `trains`.
      counts: of the step's rows.
    """
    tokens, visual, pairs = counts
    total = 0.0
    for name, shape in shapes.items():
        last = name.split(".")[-1]
        if last == "embedding" and "output" in shapes:
            continue  # a lookup alone
        uses = visual if name.startswith("patch_embedding.") else tokens
        if last.endswith(("norm", "bias")) or "norm_" in last:
            continue
        passes = 3 if trains(name, phase_trains) else 2
        # The patch projection reads each pixel once, for four patches a token, and nothing lies below it.
        if last == "patch":
            uses, passes = 4 * visual, passes - 1
        total += 2.0 * passes * math.prod(shape) * uses
    layers = sum(shape[0] for name, shape in shapes.items() if name.endswith(".attention.q"))
    key_width = 2 * head_dim if "base.attention.q_hw" in shapes else head_dim
    return total + 2.0 * heads * layers * pairs * ((key_width + head_dim) + (3 * key_width + 2 * head_dim))
