"""Properties of known accelerators, for plans and for the model FLOPs utilisation (MFU) of a run.

Peaks are vendors' figures. Sources: Google Cloud's pages of TPU v5e, v5p, v6e and TPU7x; "How to Scale Your Model" (2025), chapter "TPUs", for
link and data-centre bandwidths; NVIDIA's data sheets of H100 SXM and H200 SXM, and of their systems of eight with one 400 Gbit/s adapter a GPU."""

from __future__ import annotations

import dataclasses

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Properties of one device. A device is what jax counts: a TPU7x chip is two devices.

    Attributes:
      name: name in --hardware.
      kinds: possible values of jax's device_kind.
      flops: dense bfloat16 FLOP/s.
      hbm_bytes: memory that a program may use.
      hbm_bandwidth: bytes/s.
      link_bandwidth: bytes/s in one direction, of one ICI link (TPU) or of a GPU within its node.
      slow_bandwidth: bytes/s in one direction between slices or nodes, for each device.
      torus: number of dimensions of a slice's torus; 0: every device of a node reaches every other at full speed.
      wrap: smallest number of chips along a dimension whose ends are joined.
      devices: number of devices of a chip.
      known: shapes that messages suggest.
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
