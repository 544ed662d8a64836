"""Times the attention paths on packed rows, forward and backward, in one run: python benchmarks/attention.py [--length 2048] [--rows 1].

Prints the time, useful GFLOP/s and the ratio to the dense reference for each kind of row. Useful FLOPs, per query head with A attended pairs:
forward 2 (Dk + Dv) A, backward 2 (3 Dk + 2 Dv) A. Compare ratios within a run, not times between runs.
"""

from __future__ import annotations

import argparse
import pathlib
import platform
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

import jax
import jax.numpy as jnp
import numpy as np

from neo_jax.attention.api import chunk_size
from neo_jax.attention.chunked import chunked_attention
from neo_jax.attention.reference import dense_attention

HEADS, KEY_HEADS, KEY_WIDTH, VALUE_WIDTH = 4, 2, 256, 128
REPEATS = 5


def intervals(length: int, document: int, image: int) -> np.ndarray:
    """[length, 2] lo, hi of documents of one length, each beginning with an image of `image` tokens."""
    position = np.arange(length)
    start = position // document * document
    inside = position - start < image
    return np.stack([start, np.where(inside, np.minimum(start + image, length), position + 1)], -1).astype(np.int32)


def seconds(function, *arguments) -> float:
    """Median time of a call, compiled before."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=1)
    options = parser.parse_args()
    length, rows = options.length, options.rows
    kinds = {
        "one long text": intervals(length, length, 0),
        "image-text pairs of 256": intervals(length, 256, 128),
        "clips of 16 frames": intervals(length, length, length // 16),
    }
    print(
        f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {platform.machine()}, rows {rows}, length {length}, float32, median of {REPEATS}"
    )
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((HEADS, KEY_WIDTH), (KEY_HEADS, KEY_WIDTH), (KEY_HEADS, VALUE_WIDTH))
    q, k, v = (jax.random.normal(key, (rows, length, *shape)) for key, shape in zip(keys, shapes, strict=True))
    paths = {
        "dense": lambda q, k, v, lo, hi: dense_attention(q, k, v, lo, hi, 0.1),
        "chunked": lambda q, k, v, lo, hi: chunked_attention(q, k, v, lo, hi, 0.1, chunk_size(length)),
    }
    for kind, attend in kinds.items():
        pairs = int((attend[:, 1] - attend[:, 0]).sum()) * rows
        lo, hi = (jnp.tile(jnp.asarray(attend[:, i]), (rows, 1)) for i in (0, 1))
        dense: dict[str, float] = {}
        for name, path in paths.items():
            forward = jax.jit(path)
            both = jax.jit(jax.grad(lambda q, k, v, lo, hi, path=path: path(q, k, v, lo, hi).sum(), argnums=(0, 1, 2)))
            flops = {"forward": 2 * (KEY_WIDTH + VALUE_WIDTH) * pairs * HEADS}
            flops["forward and backward"] = flops["forward"] + 2 * (3 * KEY_WIDTH + 2 * VALUE_WIDTH) * pairs * HEADS
            for part, function in (("forward", forward), ("forward and backward", both)):
                took = seconds(function, q, k, v, lo, hi)
                dense.setdefault(part, took)
                rate, ratio = flops[part] / took / 1e9, dense[part] / took
                print(f"{kind:<26}{name:<10}{part:<22}{took * 1e3:9.1f} ms {rate:8.1f} GFLOP/s  dense / this {ratio:6.2f}")


if __name__ == "__main__":
    main()
