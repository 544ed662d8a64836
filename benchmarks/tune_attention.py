"""Times block sizes of the attention kernel that this device uses, and prints the row for neo_jax/attention/blocks.py.

    python benchmarks/tune_attention.py [--length 8192] [--heads 16,8]

Every candidate runs forward and backward on each kind of row of benchmarks/packed_rows.py; the best has the smallest sum of its times over the
fastest of each kind.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import pathlib
import sys

from neo_jax.attention import hopper, tpu

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

import jax
import jax.numpy as jnp

from benchmarks.attention import KEY_WIDTH, SCALE, VALUE_WIDTH, seconds
from benchmarks.packed_rows import row_kinds
from data_pipelines.batch import Intervals, map_arrays
from neo_jax.attention.api import Kernel, attention_with_lse, choose


def candidates(name: str) -> list:
    """Block sizes worth trying."""
    if name == "chunked":
        return [32, 64, 128, 256, 512, 1024]
    if name == "hopper":
        return [hopper.Blocks(forward_keys=keys, forward_stages=stages) for keys, stages in ((64, 2), (64, 3), (96, 2), (128, 1))]
    tiles = itertools.product((512, 1024), (512, 1024, 2048), (256, 512), (128, 256), (0.5, 0.65, 0.8))
    return [tpu.Blocks(*sizes) for sizes in tiles]


def time_of(q, k, v, intervals: Intervals, kernel: Kernel) -> float:
    """Seconds of forward and backward; infinite where the blocks do not compile."""

    @jax.jit
    def gradient(q, k, v):
        return jax.grad(lambda *x: attention_with_lse(*x, intervals, SCALE, kernel)[0].astype(jnp.float32).sum(), argnums=(0, 1, 2))(
            q, k, v
        )

    try:
        return seconds(gradient, q, k, v)
    except Exception as error:  # too large for the chip's memory, as a rule: the next one
        print(f"  {kernel.blocks}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
        return math.inf


def main() -> None:
    on_cpu = jax.devices()[0].platform == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=2048 if on_cpu else 8192)
    parser.add_argument("--heads", default="4,2" if on_cpu else "16,8", help="query heads, key heads")
    options = parser.parse_args()
    heads, key_heads = map(int, options.heads.split(","))
    dtype = jnp.float32 if on_cpu else jnp.bfloat16
    shapes = (heads, KEY_WIDTH), (key_heads, KEY_WIDTH), (key_heads, VALUE_WIDTH)
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (1, options.length, *shape), dtype) for key, shape in zip(keys, shapes, strict=True))
    name = choose(q, k, v).name
    rows = row_kinds(options.length)
    times: dict = {}
    for blocks in candidates(name):
        run = functools.partial(time_of, q, k, v, kernel=Kernel(name, blocks))
        times[blocks] = [run(map_arrays(lambda x: jnp.asarray(x[None]), intervals)) for intervals in rows.values()]
        print(blocks, " ".join(f"{kind} {took * 1e3:.2f} ms" for kind, took in zip(rows, times[blocks], strict=True)), flush=True)
    fastest = [min(of_kind) for of_kind in zip(*times.values(), strict=True)]
    best = min(times, key=lambda blocks: sum(took / least for took, least in zip(times[blocks], fastest, strict=True)))
    print(f'("{name}", "{jax.devices()[0].device_kind}", ({KEY_WIDTH}, {VALUE_WIDTH}), {options.length}, {best!r}),')


if __name__ == "__main__":
    main()
