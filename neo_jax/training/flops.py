"""FLOPs a step needs, from what its batch holds, and the peak of known chips.

Useful FLOPs count each multiplication and addition of matrix products once: 2 per parameter and token forward, 2 for the gradient of the input,
2 for the gradient of a weight where it trains. Attention per query head with A attended pairs: forward 2 (Dk + Dv) A, backward 2 (3 Dk + 2 Dv) A.
Padding counts as nothing, rematerialisation neither.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from neo_jax.planning.devices import CHIPS
from neo_jax.training.optimizer import trains

# Dense bfloat16 FLOP/s of devices that no plan is made for; public data sheets.
OTHERS = {"TPU v4": 275e12, "NVIDIA A100-SXM4-80GB": 312e12}

PAIRS = 4096  # the pairs of a long row exceed an int32


def peak(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None where it is not known (CPUs)."""
    chip = next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)
    return chip.flops if chip else OTHERS.get(device_kind)


@jax.jit
def count_rows(batch: dict[str, jax.Array]) -> jax.Array:
    """What every row of a batch on the devices holds, padding left out; the same in every process.

    Returns:
      [rows, 4] int32, or [accumulate, rows, 4]: tokens, visual tokens, and attended pairs in units of PAIRS and what is left of them.
    """
    real = batch["source"] >= 0
    spans = jnp.where(real, batch["attend"][..., 1] - batch["attend"][..., 0], 0)
    parts = (real, batch["visual_slot"] >= 0, spans // PAIRS, spans % PAIRS)
    sums = jnp.stack([part.sum(-1, dtype=jnp.int32) for part in parts], -1)
    return jax.sharding.reshard(sums, PartitionSpec())


def total(rows: np.ndarray) -> tuple[int, int, int]:
    """(tokens, visual tokens, attended pairs) of a batch from its `count_rows`."""
    tokens, visual, units, rest = rows.reshape(-1, 4).sum(0, dtype=np.int64).tolist()
    return tokens, visual, PAIRS * units + rest


def useful(shapes: dict[str, tuple[int, ...]], heads: int, head_dim: int, what: str, tokens: int, visual: int, pairs: int) -> float:
    """Useful FLOPs of one training step.

    Args:
      shapes: shape of every parameter by name (layers stacked).
      heads, head_dim: query heads and their width.
      what: the phase's `trains`.
      tokens, visual, pairs: from `total`.
    """
    total = 0.0
    for name, shape in shapes.items():
        last = name.split(".")[-1]
        if last == "embedding" and "output" in shapes:
            continue  # a lookup alone
        uses = visual if name.startswith("patch_embedding.") else tokens
        if last.endswith(("norm", "bias")) or "norm_" in last:
            continue
        passes = 3 if trains(name, what) else 2
        # The patch projection reads each pixel once, for four patches a token, and nothing lies below it.
        if last == "patch":
            uses, passes = 4 * visual, passes - 1
        total += 2.0 * passes * math.prod(shape) * uses
    layers = sum(shape[0] for name, shape in shapes.items() if name.endswith(".attention.q"))
    key_width = 2 * head_dim if "base.attention.q_hw" in shapes else head_dim
    return total + 2.0 * heads * layers * pairs * ((key_width + head_dim) + (3 * key_width + 2 * head_dim))
