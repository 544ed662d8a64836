"""Devices of absent hardware (a simulated topology), to compile for."""

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
    """Hardware that cannot be planned for; the message names hardware that can."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Devices to compile for.

    Attributes:
      text: the hardware as the user wrote it, such as "v5p:4x4x4".
      chip: properties of each device.
      devices: all devices.
      groups: number of slices or nodes. The network between them is slow.
    """

    text: str
    chip: Chip
    devices: Sequence[jax.Device]
    groups: int

    @property
    def is_tpu(self) -> bool:
        """Whether the devices are TPUs; otherwise they are GPUs."""
        return self.chip.torus > 0

    def group(self, device: int) -> int:
        """Returns the index of the slice or node of a device, given its index in `devices`."""
        return device // (len(self.devices) // self.groups)


def parse(text: str) -> tuple[Chip, int, tuple[int, ...]]:
    """Parses CHIP:SHAPE or COUNT*CHIP:SHAPE into (chip, slices, shape). Raises HardwareError."""
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
    """Returns the devices of hardware such as "v5p:4x4x4", "2*v5e:16x16" or "h200:8x8".

    Raises:
      HardwareError: the chip or the shape is unknown, or the compiler for it is not installed.
    """
    chip, slices, shape = parse(text)
    compiler, package = ("libtpu", "libtpu") if chip.torus else ("jax_cuda13_plugin", "jax[cuda13]")
    if importlib.util.find_spec(compiler) is None:
        raise HardwareError(
            f"--hardware={text}: its compiler is not installed: it is part of {package}, which `make plan ARGS=...` installs"
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
            f"--hardware={text}: the compiler describes {len(devices)} devices of this shape, {count} were expected: choose another shape"
        )
    return Hardware(text, chip, devices, slices)


def _prepare_libtpu() -> None:
    """Sets environment variables for libtpu on a machine without TPUs: it must not query the network for TPU metadata."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # the limit of one process is for real TPUs


def _prepare_cuda() -> None:
    """Adds the CUDA assembler and libraries of the installed wheels to PATH and XLA_FLAGS."""
    wheels = importlib.util.find_spec("nvidia.cu13")
    toolkit = wheels.submodule_search_locations[0] if wheels and wheels.submodule_search_locations else ""
    if toolkit and toolkit not in os.environ["PATH"]:
        os.environ["PATH"] = f"{toolkit}/bin:{os.environ['PATH']}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_cuda_data_dir={toolkit}".strip()


# The smallest slice of each chip that the compiler describes.
SMALLEST_SLICES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}


@contextlib.contextmanager
def one_chip(chip: str) -> Iterator[jax.sharding.Sharding]:
    """Makes jax trace for one chip of this kind inside a `with` block; yields the sharding for arguments and results of jax.jit.

    Raises:
      ValueError: the chip is unknown.
      HardwareError: libtpu is not installed.
    """
    if chip not in SMALLEST_SLICES:
        raise ValueError(f"unknown chip {chip!r}: it must be one of {', '.join(SMALLEST_SLICES)}")
    devices = open_hardware(SMALLEST_SLICES[chip]).devices
    mesh = Mesh(np.array(devices[:1]), ("chip",))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # kernels read the TPU generation from it
        yield jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
