"""Seconds to trace, lower and compile the 2B step for a slice of v5p that is not there, by the number of layers.

    PYTHONPATH=.cache/libtpu-VERSION python benchmarks/compile_time.py [LAYERS ...]        (make test-aot brings libtpu)

A third of the layers are pre-buffer, as in the model; mid_16k, one row of 16,384 tokens on each of 64 chips, data 4, fsdp 16.
"""

from __future__ import annotations

import os
import pathlib
import resource
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

from neo_jax.config import parse_command_line
from neo_jax.planning.devices import open_hardware
from neo_jax.planning.programs import compile_step

LAYERS = (3, 12, 40)


def main(layers: list[int]) -> None:
    hardware = open_hardware("v5p:4x4x4")
    for count in layers:
        changes = {"model.base_layers": count - count // 3, "model.pre_buffer_layers": count // 3}
        changes |= {"phases.mid_16k.mesh.fsdp": 16, "phases.mid_16k.rows_per_step": 64}
        settings = parse_command_line(["--config=configs/neo_ov_2b.py", *(f"--config.{key}={value}" for key, value in changes.items())])
        phase = next(phase for phase in settings.phases if phase.name == "mid_16k")
        seconds = compile_step(settings, phase, hardware).seconds
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{count} layers: trace {seconds[0]:.1f} s, lower {seconds[1]:.1f} s, compile {seconds[2]:.1f} s; largest memory so far {memory:.1f} GiB"
        )


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or list(LAYERS))
