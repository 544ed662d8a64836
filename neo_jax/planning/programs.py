"""Compiles the real training step of a phase for absent hardware (a simulated topology)."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any, cast

import jax
import numpy as np

from data_pipelines.batch import BATCHES_AHEAD, Batch
from neo_jax import config
from neo_jax.attention.api import Kernel, choose
from neo_jax.chips import GIB
from neo_jax.planning.collectives import Collective, collectives
from neo_jax.planning.devices import Hardware
from neo_jax.sharding import abstract_batch, make_mesh
from neo_jax.training.curriculum import abstract_state
from neo_jax.training.step import TrainState, train_step_of

GPU_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}  # there is no GPU to time kernels on


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of a step on one device, in bytes.

    Attributes:
      parameters: parameters.
      optimizer: optimizer state in device memory.
      batch: rows of the step, and of the BATCHES_AHEAD following steps, which are copied in advance.
      activations: other memory of the program: activations, gradients and code.
      host: optimizer state of one device in host memory.
      peak: the sum of all parts in device memory.
    """

    parameters: int
    optimizer: int
    batch: int
    activations: int
    host: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step.

    Attributes:
      memory: memory on one device.
      kernel: the attention kernel.
      collectives: collectives of one step.
      jaxpr: the traced step.
      axis_sizes: sizes of the mesh axes by name, in the mesh's order.
      places: indexes in Hardware.devices of the devices of the mesh, in its order.
      seconds: time to trace, to lower and to compile.
      error: why it could not be compiled, such as too little memory; memory.peak is then what the compiler reported. "" if it could.
    """

    memory: Memory
    kernel: Kernel
    collectives: list[Collective]
    jaxpr: Any
    axis_sizes: dict[str, int]
    places: np.ndarray
    seconds: tuple[float, float, float]
    error: str = ""


def compile_step(settings: config.Config, phase: config.Phase, hardware: Hardware) -> Program:
    """Traces, lowers and compiles the training step of a phase on its mesh over the hardware.

    Raises:
      ValueError: the mesh does not fit the devices.
      jax.errors.JaxRuntimeError: compiling failed for another reason than too little memory.
    """
    sizes = phase.mesh
    mesh = make_mesh(sizes.data, sizes.fsdp, sizes.context, sizes.tensor, devices=hardware.devices)
    index = {id(device): place for place, device in enumerate(hardware.devices)}
    places = np.array([index[id(device)] for device in mesh.devices.flat])
    options = {} if hardware.is_tpu else GPU_OPTIONS
    with jax.set_mesh(mesh):
        state = abstract_state(settings, phase, mesh)
        batch = abstract_batch(phase.rows_per_step, phase.context, phase.visual_tokens, phase.accumulate)
        kernel = _kernel(settings, phase, mesh.shape)
        step = train_step_of(settings, phase, state.trainable)
        start = time.monotonic()
        traced = cast(Any, step).trace(state, batch, *(jax.ShapeDtypeStruct((), np.float32),) * 2)
        at_lower = time.monotonic()
        lowered = traced.lower()
        at_compile = time.monotonic()
        try:
            compiled = lowered.compile(options)
        except jax.errors.JaxRuntimeError as error:
            needed = needed_bytes(str(error))
            if needed is None:
                raise
            given = _memory(state, batch, 0).peak
            memory, found = _memory(state, batch, max(0, needed - given)), []
            reason = f"needs {needed / GIB:.1f} of {hardware.chip.hbm_bytes / GIB:.1f} GiB ({str(error).splitlines()[0][:300]})"
        else:
            analysis = compiled.memory_analysis()
            outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
            own = analysis.temp_size_in_bytes + analysis.generated_code_size_in_bytes + outputs
            memory, reason = _memory(state, batch, own), ""
            found = collectives(compiled.as_text(), dict(mesh.shape))
        seconds = (at_lower - start, at_compile - at_lower, time.monotonic() - at_compile)
    jax.clear_caches()  # a compiled step occupies gigabytes of memory on this machine
    return Program(memory, kernel, found, traced.jaxpr.jaxpr, dict(mesh.shape), places, seconds, reason)


def _kernel(settings: config.Config, phase: config.Phase, sizes) -> Kernel:
    """Returns the attention kernel of a phase on a mesh with these axis sizes."""
    model = settings.model
    rows = phase.rows_per_step // phase.accumulate // (sizes["data"] * sizes["fsdp"])
    width = model.head_dim * (2 if phase.architecture == "neo" else 1)
    queries, keys = model.heads // sizes["tensor"], model.kv_heads // sizes["tensor"]
    shapes = ((phase.context // sizes["context"], queries, width), (phase.context, keys, width), (phase.context, keys, model.head_dim))
    q, k, v = (cast(jax.Array, jax.ShapeDtypeStruct((rows, *shape), phase.compute_dtype)) for shape in shapes)
    return choose(q, k, v, phase.attention)


def _memory(state: TrainState, batch: Batch, own: int) -> Memory:
    """Returns the memory of a step whose program needs `own` bytes besides state and batch."""
    moments = jax.tree.leaves((state.moments, state.average))
    parameters = sum(_bytes(x) for x in jax.tree.leaves((state.trainable, state.frozen)))
    host = sum(_bytes(x) for x in moments if x.sharding.memory_kind == "pinned_host")
    optimizer = sum(_bytes(x) for x in moments) - host
    of_batch = (1 + BATCHES_AHEAD) * sum(_bytes(x) for x in jax.tree.leaves(batch))
    return Memory(parameters, optimizer, of_batch, own, host, parameters + optimizer + of_batch + own)


def _bytes(x: jax.ShapeDtypeStruct) -> int:
    """Returns the bytes of one device's shard."""
    return int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize


def needed_bytes(message: str) -> int | None:
    """Returns the bytes that a program needs by an out-of-memory error of the compiler; 0 if it names none; None for any other error.

    The TPU compiler calls them temporaries, but they include the arguments: a v5e program with 8.125 GiB of arguments and 16 GiB of temporaries
    is refused for 24.12G.
    """
    if "RESOURCE_EXHAUSTED" not in message and "out of memory" not in message.lower() and "Ran out of memory" not in message:
        return None
    for pattern in (r"required for HLO temporaries \(([\d.]+)([KMG])\)", r"hbm requirement ([\d.]+)([KMG])", r"Used ([\d.]+)([KMG]) of"):
        if match := re.search(pattern, message):
            return int(float(match[1]) * {"K": 1 << 10, "M": 1 << 20, "G": GIB}[match[2]])
    return 0
