"""Hardware that is not there: what its chips can do, and its devices for the compiler.

Peaks are vendors' figures. Sources: Google Cloud's pages of TPU v5e, v5p, v6e and TPU7x; "How to Scale Your Model" (2025), chapter "TPUs", for
link and data-centre bandwidths; NVIDIA's data sheets of H100 SXM and H200 SXM, and of their systems of eight with one 400 Gbit/s adapter a GPU.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import pathlib
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, as jax counts them (a TPU7x chip is two).

    Attributes:
      name: as --hardware says it.
      kinds: jax's device_kind.
      flops: dense bfloat16 FLOP/s.
      hbm_bytes: memory that a program may use.
      hbm_bandwidth: bytes/s.
      link_bandwidth: bytes/s one way: of one ICI link (TPU), of a GPU within its node.
      slow_bandwidth: bytes/s one way between slices or nodes, for each device.
      torus: dimensions of a slice's torus; 0: every device of a node reaches every other at full speed.
      wrap: chips along a dimension from which on its ends are joined.
      devices: of a chip.
      known: shapes to offer where another is asked for.
    """

    name: str
    kinds: tuple[str, ...]
    flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    slow_bandwidth: float
    torus: int
    wrap: int
    known: tuple[str, ...]
    devices: int = 1


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
_NODES = ("1x1", "1x8", "2x8", "4x8", "8x8", "16x8", "32x8")

# HBM of TPUs: what their compiler lets a program have. Of GPUs: 0.9 of the memory, as XLA_PYTHON_CLIENT_MEM_FRACTION=0.9 takes it.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 15.75 * GIB, 0.82e12, 45e9, 3.1e9, 2, 16, _FLAT),
        Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 95.74 * GIB, 2.77e12, 90e9, 6.25e9, 3, 4, _CUBES),
        Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 31.25 * GIB, 1.64e12, 90e9, 12.5e9, 2, 16, _FLAT),
        Chip("tpu7x", ("TPU7x",), 1153.5e12, 94.75 * GIB, 3.69e12, 50e9, 6.25e9, 3, 4, _CUBES, devices=2),
        Chip("h100", ("NVIDIA H100 80GB HBM3",), 989e12, 0.9 * 80e9, 3.35e12, 450e9, 50e9, 0, 0, _NODES),
        Chip("h200", ("NVIDIA H200",), 989e12, 0.9 * 141e9, 4.8e12, 450e9, 50e9, 0, 0, _NODES),
    )
}


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
