"""PyTorch's flex_attention on the rows of benchmarks/attention.py: needs torch, not jax. python benchmarks/flex_attention.py --length 8192."""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.packed_rows import row_kinds
from data_pipelines.batch import attended_pairs

KEY_WIDTH, VALUE_WIDTH, SCALE, REPEATS = 256, 128, 128**-0.5, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--heads", default="16,8")
    parser.add_argument("--no-compile", action="store_true", help="run it eagerly, to see that it runs")
    options = parser.parse_args()
    heads, key_heads = map(int, options.heads.split(","))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    attention = flex_attention if options.no_compile else torch.compile(flex_attention)

    def synchronised(function) -> float:
        times = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])  # the first one compiles

    for kind, row in row_kinds(options.length).items():
        lo, hi = (torch.as_tensor(x.copy(), device=device) for x in row)
        mask = create_block_mask(
            lambda b, h, i, j, lo=lo, hi=hi: (j >= lo[i]) & (j < hi[i]), 1, None, options.length, options.length, device=device
        )
        shapes = (heads, KEY_WIDTH), (key_heads, KEY_WIDTH), (key_heads, VALUE_WIDTH)
        q, k, v = (torch.randn(1, n, options.length, d, device=device, dtype=dtype, requires_grad=device == "cuda") for n, d in shapes)

        def forward(q=q, k=k, v=v, mask=mask):
            return attention(q, k, v, block_mask=mask, scale=SCALE, enable_gqa=True)

        pairs = int(attended_pairs(row)) * heads
        took = synchronised(forward)
        rate = 2 * (KEY_WIDTH + VALUE_WIDTH) * pairs / took / 1e12
        line = f"{kind:<20} flex torch {torch.__version__} {device}  forward {took * 1e3:9.2f} ms {rate:7.2f} TFLOP/s"
        if device == "cuda":  # flex_attention has no backward pass on a CPU
            backward = synchronised(lambda forward=forward: forward().sum().backward()) - took
            rate = 2 * (3 * KEY_WIDTH + 2 * VALUE_WIDTH) * pairs / backward / 1e12
            line += f"  backward {backward * 1e3:9.2f} ms {rate:7.2f} TFLOP/s"
        print(line, flush=True)


if __name__ == "__main__":
    main()
