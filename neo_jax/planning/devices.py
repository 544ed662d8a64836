"""Absent hardware (simulated topology): its devices, for the compiler."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from neo_jax.chips import CHIPS, Chip


class HardwareError(ValueError):
    """Hardware that cannot be planned for; the message says what can."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Devices to compile for.

    Attributes:
      text: as it was asked for.
      chip: what each device can do.
      devices: all of them.
      groups: slices or nodes, between which the network is slow.
    """

    text: str
    chip: Chip
    devices: Sequence[jax.Device]
    groups: int

    @property
    def is_tpu(self) -> bool:
        return self.chip.torus > 0

    def group(self, device: int) -> int:
        """The slice or node of a device by its place in `devices`."""
        return device // (len(self.devices) // self.groups)


def parse(text: str) -> tuple[Chip, int, tuple[int, ...]]:
    """CHIP:SHAPE or COUNT*CHIP:SHAPE -> (chip, slices, shape). Raises HardwareError."""
    examples = "write for example v5p:4x4x4, 2*v6e:16x16 (two slices) or h200:8x8 (eight nodes of eight)"
    match = re.fullmatch(r"(?:(\d+)\*)?([a-z0-9]+):(\d+(?:x\d+)*)", text)
    if not match:
        raise HardwareError(f"--hardware={text}: not understood: {examples}")
    slices, name, shape = int(match[1] or 1), match[2], tuple(int(size) for size in match[3].split("x"))
    if name not in CHIPS:
        raise HardwareError(f"--hardware={text}: unknown chip {name!r}: it must be one of {', '.join(CHIPS)}; {examples}")
    chip = CHIPS[name]
    if len(shape) != (chip.torus or 2) or 0 in shape or slices < 1 or (slices > 1 and not chip.torus):
        raise HardwareError(
            f"--hardware={text}: no such shape of {name}: {', '.join(chip.known)} and larger ones of the same form are known"
        )
    return chip, slices, shape


def open_hardware(text: str) -> Hardware:
    """The devices of hardware such as "v5p:4x4x4", "2*v5e:16x16" or "h200:8x8".

    Raises:
      HardwareError: the chip or the shape is unknown, or the compiler for it is not installed.
    """
    chip, slices, shape = parse(text)
    compiler, package = ("libtpu", "libtpu") if chip.torus else ("jax_cuda13_plugin", "jax[cuda13]")
    if importlib.util.find_spec(compiler) is None:
        raise HardwareError(
            f"--hardware={text}: the compiler for it is not installed here: it comes with {package}; `make plan ARGS=...` brings it"
        )
    try:
        if chip.torus:
            _prepare_libtpu()
            name = f"{chip.name}:{'x'.join(map(str, shape))}"
            devices = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices).devices
            count = slices * math.prod(shape) * chip.devices
        else:
            _prepare_cuda()
            config = (pathlib.Path(__file__).with_name("gpus") / f"{chip.name}.txtpb").read_text()
            topology = f"1x{shape[0]}x{shape[1]}"  # slices x hosts x devices
            devices = topologies.get_topology_desc(
                topology_name=chip.name, platform="cuda", topology=topology, target_config=config
            ).devices
            count, slices = math.prod(shape), shape[0]
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        known = ", ".join(chip.known)
        raise HardwareError(f"--hardware={text}: no such shape of {chip.name} ({str(error)[:200]}); {known} are known") from error
    if len(devices) != count:
        raise HardwareError(
            f"--hardware={text}: the compiler describes {len(devices)} devices of it, {count} were expected: ask for another shape"
        )
    return Hardware(text, chip, devices, slices)


def _prepare_libtpu() -> None:
    # A machine without TPUs: nothing is to be asked of the network about it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # the limit of one process is that of a real TPU


def _prepare_cuda() -> None:
    """Tells the compiler where the wheels keep the assembler and its libraries."""
    wheels = importlib.util.find_spec("nvidia.cu13")
    toolkit = wheels.submodule_search_locations[0] if wheels and wheels.submodule_search_locations else ""
    if toolkit and toolkit not in os.environ["PATH"]:
        os.environ["PATH"] = f"{toolkit}/bin:{os.environ['PATH']}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_cuda_data_dir={toolkit}".strip()


# Chip -> the smallest slice that the compiler describes.
SMALLEST_SLICES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}


@contextlib.contextmanager
def one_chip(chip: str) -> Iterator[jax.sharding.Sharding]:
    """Inside, what is traced is for one chip of this kind; yields the sharding for the arguments and results of jax.jit.

    Raises:
      ValueError: the chip is unknown.
      HardwareError: libtpu is not installed.
    """
    if chip not in SMALLEST_SLICES:
        raise ValueError(f"unknown chip {chip!r}: it must be one of {', '.join(SMALLEST_SLICES)}")
    devices = open_hardware(SMALLEST_SLICES[chip]).devices
    mesh = Mesh(np.array(devices[:1]), ("chip",))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # a kernel asks it for the generation of TPU
        yield jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
