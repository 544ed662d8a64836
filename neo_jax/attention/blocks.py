"""Block sizes of the attention kernels by chip, head widths and length. `python benchmarks/tune_attention.py` measures them anew.

What was timed stands beside its row. Nothing was on a TPU or a GPU: those rows follow from what fits their memories and from the compilers'
schedules.
"""

from __future__ import annotations

from typing import Any

from neo_jax.attention import hopper, tpu

# (kernel, word in the device kind, (key width, value width), rows of at most this length) -> blocks; the first that fits. None: any.
TABLE: tuple[tuple[str, str | None, tuple[int, int] | None, int | None, Any], ...] = (
    # Chosen by the bundles of the compiler's schedules over the row kinds of benchmarks/packed_rows.py at 8,192 tokens, 500 added for each tile:
    # on v5e mixed rows take 0.89 of what squares of 256 and 0.65 take, on v6e these take 0.93 of what squares of 128 take.
    ("tpu", "v5", None, None, tpu.Blocks(square=128, sparse=0.8)),
    ("tpu", None, None, None, tpu.Blocks()),
    ("hopper", None, None, None, hopper.Blocks()),
    ("chunked", "cpu", None, None, 64),  # 1.2 to 2.5 times as fast as 128 and 256 on packed rows of 256 to 2,048 tokens
    ("chunked", None, None, None, 256),
)


def blocks_for(kernel: str, device_kind: str, k_shape: tuple[int, ...], v_shape: tuple[int, ...]) -> Any:
    """The blocks of a kernel for keys [B, S, Hkv, Dk] and values [B, S, Hkv, Dv]."""
    for name, chip, widths, length, blocks in TABLE:
        fits = chip is None or chip in device_kind, widths in (None, (k_shape[-1], v_shape[-1])), length is None or k_shape[1] <= length
        if name == kernel and all(fits):
            return blocks
    raise ValueError(f"no block sizes for {kernel} on {device_kind}")
