"""Times decoding with a cache beside reading the whole row again for every token; writes benchmarks/results/decoding.json.

    python -m benchmarks.decoding          (the demo's model with random parameters, a prompt of 512 tokens; about a minute on two cores)

With a cache: one call of inference.generate.decode for TOKENS tokens of each row, the mean over calls. Without: the forward pass of a row of as many
tokens as the prompt and half of the answer have, once a token, logits of the last token alone. The floor of a step with a cache is the time in which
this machine reads parameters and filled caches once: `read_gb_per_second` is that of summing a large array in the same process.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.step import machine
from configs.demo import get_config
from data_pipelines.batch import ModelInputs, row_intervals
from neo_jax.config import Config
from neo_jax.inference.generate import CHUNK, Program, decode, on_mesh, prefill
from neo_jax.inference.sampling import GREEDY
from neo_jax.model.backbone import build, initialise
from neo_jax.model.computation import Computation
from neo_jax.sharding import make_mesh, to_devices

RESULT = pathlib.Path("benchmarks/results/decoding.json")
PROMPT, ROWS, WANTED = 512, (1, 8, 32), 3.0
TOKENS = CHUNK


def text(rows: int, length: int) -> ModelInputs:
    """Rows of random words, one document each."""
    own = np.stack([np.zeros(length, np.int32), np.arange(1, length + 1, dtype=np.int32)])
    lo, hi = (np.tile(x, (rows, 1)) for x in own)
    positions = np.zeros((rows, length, 3), np.int32)
    positions[..., 0] = np.arange(length)
    return ModelInputs(
        tokens=np.random.default_rng(0).integers(0, 500, (rows, length)).astype(np.int32),
        positions=positions,
        intervals=type(row_intervals([], 1))(lo, hi),
        visual_slot=np.full((rows, length), -1, np.int32),
        visual=np.zeros((rows, 0, 3072), np.uint8),
        visual_position=np.zeros((rows, 0, 2), np.int32),
    )


def seconds(work: Callable[[], Any], least: float = 2.0) -> float:
    """Seconds of one call, the median over as many as take `least`; the first two are not counted."""
    taken: list[float] = []
    for number in range(10_000):
        began = time.perf_counter()
        jax.block_until_ready(work())
        if number > 1:
            taken.append(time.perf_counter() - began)
        if sum(taken) > least:
            break
    return float(np.median(taken))


def read_rate() -> float:
    """Bytes a second at which a large array is read."""
    array = jnp.ones(1 << 27, jnp.float32)
    total = jax.jit(jnp.sum)
    return array.nbytes / seconds(lambda: total(array))


def measure(settings: Config, rows: int, rate: float) -> dict[str, Any]:
    model, computation = settings.model, Computation()
    parameters = initialise(model, "neo", 0)
    program = Program(model, computation)
    prompts, sampling = to_devices(text(rows, PROMPT)), on_mesh([GREEDY] * rows)
    state = prefill(program, parameters, prompts, sampling, PROMPT + TOKENS)

    def cached() -> jax.Array:
        copy = jax.tree.map(jnp.copy, state)  # decode consumes it; not timed
        jax.block_until_ready(copy)
        nonlocal began
        began = time.perf_counter()
        return decode(program, parameters, copy, np.int32(TOKENS))[0]

    began, taken = 0.0, []
    for number in range(12):
        jax.block_until_ready(cached())
        if number > 1:
            taken.append(time.perf_counter() - began)
    step = float(np.median(taken)) / TOKENS
    length = PROMPT + TOKENS // 2
    inputs = to_devices(text(rows, length))

    @jax.jit
    def again(parameters, inputs):
        backbone = build(model, "neo", parameters)
        return backbone.logits(backbone(inputs, computation)[:, -1:])

    whole = seconds(lambda: again(parameters, inputs))
    caches = sum(x.nbytes for x in jax.tree.leaves(state.caches)) * length / (PROMPT + TOKENS)
    floor = (sum(x.nbytes for x in parameters.values()) + caches) / rate
    return {
        "rows": rows,
        "cached_tokens_per_second": round(rows / step, 1),
        "uncached_tokens_per_second": round(rows / whole, 1),
        "ratio": round(whole / step, 2),
        "share_of_bandwidth_bound": round(floor / step, 3),
    }


def main() -> None:
    load = os.getloadavg()[0]
    settings = Config.from_config_dict(get_config())
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        rate = read_rate()
        rows = []
        for count in ROWS:
            rows.append(measure(settings, count, rate))
            print(rows[-1], flush=True)
    result = {
        "command": "python -m benchmarks.decoding",
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        "machine": machine(load),
        "prompt_tokens": PROMPT,
        "wanted_ratio": WANTED,
        "read_gb_per_second": round(rate / 1e9, 2),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
