"""Times interval attention, forward and backward, beside what else can express the mask, on the same rows in one run.

    python benchmarks/attention.py                                    (2B heads on an accelerator, few and narrow ones on a CPU)
    python benchmarks/attention.py --length 36864 --json h200.json    (the figures as JSON too)

Prints for each kind of row (benchmarks/packed_rows.py): waste, that is pairs computed over pairs attended; milliseconds; useful TFLOP/s; its share
of a measured matrix product's rate; the largest error against float32 of chunked XLA, as a share of the largest element. Useful FLOPs, per query
head with A attended pairs: forward 2 (Dk + Dv) A, backward 2 (3 Dk + 2 Dv) A; padding and recomputation count as nothing. Backward is the time of
both less that of forward. What cannot run here is listed with its reason. Compare ratios within a run, not times between runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from neo_jax.attention import hopper

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

import jax
import jax.numpy as jnp

from benchmarks.attention_alternatives import ALTERNATIVES
from benchmarks.packed_rows import row_kinds
from data_pipelines.batch import Intervals, attended_pairs, map_arrays
from neo_jax.attention import chunked, tpu
from neo_jax.attention.api import IMPLEMENTATIONS, Kernel, UnsupportedAttentionError, attention_with_lse, choose

KEY_WIDTH, VALUE_WIDTH, SCALE = 256, 128, 128**-0.5
REPEATS = 7
COMPUTED_PAIRS = {"chunked": chunked.computed_pairs, "tpu": tpu.computed_pairs, "hopper": hopper.computed_pairs}


@dataclasses.dataclass(frozen=True)
class Figure:
    """What one implementation did on one kind of row."""

    kind: str
    name: str
    waste: float | None
    forward_ms: float
    forward_tflops: float
    backward_ms: float
    backward_tflops: float
    error: float


def seconds(function: Callable, *arguments) -> float:
    """Median time of a call, compiled before."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_tflops(size: int, dtype) -> float:
    """Rate of a square matrix product: what a kernel could reach here."""
    a = jnp.ones((size, size), dtype)
    return 2 * size**3 / seconds(jax.jit(lambda x: x @ x), a) / 1e12


def kernels(q, k, v) -> dict[str, Kernel | str]:
    """Each of our implementations, or why it cannot run here."""
    found: dict[str, Kernel | str] = {}
    for name in IMPLEMENTATIONS:
        try:
            found[name] = choose(q, k, v, name)
        except UnsupportedAttentionError as error:
            found[name] = str(error)
    return found


def measure(kind: str, name: str, function: Callable, arrays, expected, flops: tuple[float, float], waste: float | None) -> Figure:
    """Args: function: (q, k, v) -> output; expected: its output and gradients in float32; flops: useful ones, forward and backward."""
    q, k, v, gradient = arrays

    def both(q, k, v, gradient):
        out, pullback = jax.vjp(function, q, k, v)
        return out, *pullback(gradient)

    forward, whole = jax.jit(function), jax.jit(both)
    took = seconds(forward, q, k, v), seconds(whole, q, k, v, gradient)
    results = whole(q, k, v, gradient)
    error = max(
        float(jnp.abs(mine.astype(jnp.float32) - right).max() / jnp.abs(right).max()) for mine, right in zip(results, expected, strict=True)
    )
    backward = max(took[1] - took[0], 1e-9)
    return Figure(kind, name, waste, took[0] * 1e3, flops[0] / took[0] / 1e12, backward * 1e3, flops[1] / backward / 1e12, error)


def expected_results(intervals: Intervals, arrays) -> list[jax.Array]:
    q, k, v, gradient = (x.astype(jnp.float32) for x in arrays)
    with jax.default_matmul_precision("highest"):

        @jax.jit
        def both(q, k, v, gradient):
            run = functools.partial(attention_with_lse, intervals=intervals, scale=SCALE, kernel=Kernel("chunked", 256))
            out, pullback = jax.vjp(lambda *x: run(*x)[0], q, k, v)
            return out, *pullback(gradient)

        return both(q, k, v, gradient)


def main() -> None:
    on_cpu = jax.devices()[0].platform == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=2048 if on_cpu else 8192, help="tokens of the row")
    parser.add_argument("--heads", default="4,2" if on_cpu else "16,8", help="query heads, key heads (9B: 32,8)")
    parser.add_argument("--dtype", default="float32" if on_cpu else "bfloat16")
    parser.add_argument("--kind", action="append", help="only rows of this kind; may be given several times")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here too")
    options = parser.parse_args()
    heads, key_heads = map(int, options.heads.split(","))
    length, dtype = options.length, jnp.dtype(options.dtype)
    peak = matmul_tflops(1024 if on_cpu else 8192, dtype)
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {device}, {dtype}, {length} tokens, {heads} query and {key_heads} key heads, widths 256 and 128")
    print(f"matrix product {peak:.2f} TFLOP/s; median of {REPEATS}")
    widths = ((heads, KEY_WIDTH), (key_heads, KEY_WIDTH), (key_heads, VALUE_WIDTH), (heads, VALUE_WIDTH))
    arrays = [
        jax.random.normal(key, (1, length, *each), dtype) for key, each in zip(jax.random.split(jax.random.key(0), 4), widths, strict=True)
    ]
    figures: list[Figure] = []
    refused: dict[str, str] = {}
    for kind, row in row_kinds(length).items():
        if options.kind and kind not in options.kind:
            continue
        intervals = map_arrays(lambda x: jnp.asarray(x[None]), row)
        pairs = int(attended_pairs(row))
        flops = 2 * (KEY_WIDTH + VALUE_WIDTH) * pairs * heads, 2 * (3 * KEY_WIDTH + 2 * VALUE_WIDTH) * pairs * heads
        expected = expected_results(intervals, arrays)
        runs: dict[str, tuple[Callable, float | None]] = {}
        for name, kernel in kernels(*arrays[:3]).items():
            if isinstance(kernel, str):
                refused[name] = kernel
            else:
                run = functools.partial(attention_with_lse, intervals=intervals, scale=SCALE, kernel=kernel)
                runs[name] = (lambda *x, run=run: run(*x)[0]), COMPUTED_PAIRS[name](intervals, length, kernel.blocks) / pairs
        runs |= {name: (functools.partial(function, row=row, scale=SCALE), None) for name, function in ALTERNATIVES.items()}
        for name, (function, waste) in runs.items():
            try:
                figure = measure(kind, name, function, arrays, expected, flops, waste)
            except Exception as error:  # an alternative fails in its own ways; what it says is the result
                refused[f"{name}, {kind}"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
                continue
            figures.append(figure)
            parts = ("forward", figure.forward_ms, figure.forward_tflops), ("backward", figure.backward_ms, figure.backward_tflops)
            rates = "  ".join(f"{part} {ms:9.2f} ms {rate:7.2f} TFLOP/s {rate / peak:4.0%}" for part, ms, rate in parts)
            print(f"{kind:<20} {name:<11} waste {f'{waste:4.2f}' if waste else '   -'}  {rates}  error {figure.error:.1e}", flush=True)
    for name, reason in refused.items():
        print(f"not run: {name}: {reason}")
    if importlib.util.find_spec("torch") and not on_cpu:
        subprocess.run(
            [sys.executable, str(pathlib.Path(__file__).with_name("flex_attention.py")), f"--length={length}", f"--heads={options.heads}"]
        )
    if options.json:
        record = {
            "jax": jax.__version__,
            "device": device,
            "dtype": str(dtype),
            "length": length,
            "heads": [heads, key_heads],
            "matmul_tflops": peak,
        }
        record |= {"command": sys.argv, "figures": [dataclasses.asdict(figure) for figure in figures], "not_run": refused}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
