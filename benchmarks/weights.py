"""Times reading and writing a checkpoint of NEO-ov's sizes, and measures the host's memory; writes results/weights.json or weights_9b.json.

    python -m benchmarks.weights [--folder .cache/benchmark_weights]        (11 GB of disk and 8 GB of memory; a few minutes)
    python -m benchmarks.weights --size 9b --layers 8                       (8 and 4 of 36 and 6 layers: 15 GB of disk and 12 GB of memory)

A folder as published is made (bfloat16, random bits, tied). Import: onto one device as bfloat16 parameters (training.beginning.begin, without the
moments). Export: the folder again, and a checkpoint of a run with these parameters. Each stage has a process of its own. `beside_gb` is the
largest resident memory less the parameters, and less what a process holds before it begins (`start_gb`). The floor is the disk's: bytes read or
written at the rate of one copy of the same folder, taken in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_dtypes
import numpy as np

from benchmarks.step import machine
from configs import neo_ov_2b, neo_ov_9b
from neo_jax import export
from neo_jax.config import Config
from neo_jax.interop.load import load
from neo_jax.interop.names import neo_table
from neo_jax.interop.tensors import open_folder
from neo_jax.interop.write import TensorSpec, write_folder
from neo_jax.interop.written_config import written_config
from neo_jax.places import open_place
from neo_jax.sharding import make_mesh

RESULTS = {"2b": pathlib.Path("benchmarks/results/weights.json"), "9b": pathlib.Path("benchmarks/results/weights_9b.json")}
CONFIGURATIONS = {"2b": neo_ov_2b.get_config, "9b": neo_ov_9b.get_config}
WANTED_SECONDS, WANTED_BESIDE = 120, 1e9  # of the import; bytes beside the parameters and the largest tensor
GB = 1e9


def settings_of(size: str, layers: int) -> Config:
    """A shipped configuration, with so many base layers and half as many in the pre-buffer; 0: all of both."""
    settings = Config.from_config_dict(CONFIGURATIONS[size]())
    model = dataclasses.replace(settings.model, base_layers=layers, pre_buffer_layers=layers // 2) if layers else settings.model
    return dataclasses.replace(settings, model=model)


def make(folder: pathlib.Path, settings: Config) -> None:
    model = settings.model
    specs = [TensorSpec(entry.name, entry.shape, "bfloat16") for entry in neo_table(model)]
    rng = np.random.default_rng(0)

    def values() -> Iterator[tuple[str, np.ndarray]]:
        for spec in specs:
            yield spec.name, (rng.standard_normal(spec.shape, np.float32) * 0.02).astype(ml_dtypes.bfloat16)

    write_folder(folder, specs, values(), {"config.json": json.dumps(written_config(model, "neo", "bfloat16", None)).encode()})


def measured(work: Any, parameters: int) -> dict[str, float]:
    """Seconds of `work` and the memory that it took. Linux counts ru_maxrss in KiB."""
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began, processor = time.perf_counter(), time.process_time()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "start_gb": round(start / GB, 2),
        "peak_gb": round(peak / GB, 2),
        "parameters_gb": round(parameters / GB, 2),
        "beside_gb": round((peak - start - parameters) / GB, 2),
    }


def stage(name: str, folder: pathlib.Path) -> dict[str, float]:
    published, run, out = folder / "published", folder / "run", folder / "out"
    jax.config.update("jax_platforms", "cpu")
    place = open_place(str(published))
    size = sum(int(np.prod(tensor.shape)) * 2 for tensor in open_folder(published).values())
    if name == "copy":
        return measured(lambda: shutil.copytree(published, folder / "copy"), 0)
    if name == "import":
        with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
            return measured(lambda: jax.block_until_ready(load(place.model, "neo", open_folder(published), "bfloat16")), size)
    if name == "export of the folder":
        return measured(lambda: export.export(export.Flags(str(published), str(out))), 0)
    return measured(lambda: export.export(export.Flags(str(run), str(out))), size)


def save_run(folder: pathlib.Path, settings: Config) -> None:
    from tests.neo_jax.saved_run import saved_run

    optimizer = dataclasses.replace(settings.optimizer, parameter_dtype="bfloat16", mu_dtype="bfloat16", nu_dtype="bfloat16")
    phase = dataclasses.replace(settings.phases[0], architecture="neo", trains="new")  # moments of few parameters
    run = dataclasses.replace(settings.run, initial=str(folder / "published"))
    tokenizer = dataclasses.replace(settings.tokenizer, path="tests/golden/tokenizer.json", add_special_tokens=True)
    changed = dataclasses.replace(settings, optimizer=optimizer, phases=(phase,), run=run, tokenizer=tokenizer)
    saved_run(folder / "run", changed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=0, help="base layers; 0: all")
    parser.add_argument("--size", choices=RESULTS, default="2b")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(".cache/benchmark_weights"))
    parser.add_argument("--stage", default="")
    arguments = parser.parse_args()
    folder, settings = arguments.folder, settings_of(arguments.size, arguments.layers)
    if arguments.stage == "make":
        make(folder / "published", settings)
        save_run(folder, settings)
        return
    if arguments.stage:
        print(json.dumps(stage(arguments.stage, folder)))
        return
    load = os.getloadavg()[0]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    call = [
        sys.executable,
        "-m",
        "benchmarks.weights",
        f"--size={arguments.size}",
        f"--layers={arguments.layers}",
        f"--folder={folder}",
        "--stage",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([*call, "make"], check=True, env=environment)
    rows = {}
    for name in ("copy", "import", "export of the folder", "export of the run"):
        done = subprocess.run([*call, name], check=True, env=environment, capture_output=True, text=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, rows[name], flush=True)
        for written in ("copy", "out"):
            shutil.rmtree(folder / written, ignore_errors=True)
    tensors = open_folder(folder / "published")
    largest = max(int(np.prod(tensor.shape)) * 2 for tensor in tensors.values())
    result = {
        "command": f"python -m benchmarks.weights --size {arguments.size} --layers {arguments.layers}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("jax", "numpy", "safetensors", "orbax-checkpoint")},
        "machine": machine(load),
        "largest_tensor_gb": round(largest / GB, 2),
        "wanted": {"import_seconds": WANTED_SECONDS, "beside_gb": round((largest + WANTED_BESIDE) / GB, 2)},
        "rows": rows,
    }
    RESULTS[arguments.size].write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
