"""Compiling for TPUs that are not there: their devices, for jax.jit(...).lower(...).compile().

Needs the libtpu wheel, not a TPU: `make test-aot` brings it, or `pip install libtpu`. What a compiled program says of its memory is what the TPU
would need, and its errors (out of VMEM, a layout that is not supported) are the real ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from neo_jax.hardware import open_hardware

# Chip -> the smallest slice that the compiler describes.
CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}


@contextlib.contextmanager
def one_chip(chip: str) -> Iterator[jax.sharding.Sharding]:
    """Inside, what is traced is for one chip of this kind; yields the sharding for the arguments and results of jax.jit.

    Raises:
      ValueError: the chip is unknown.
      HardwareError: libtpu is not installed.
    """
    if chip not in CHIPS:
        raise ValueError(f"unknown chip {chip!r}: it must be one of {', '.join(CHIPS)}")
    devices = open_hardware(CHIPS[chip]).devices
    mesh = Mesh(np.array(devices[:1]), ("chip",))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # a kernel asks it for the generation of TPU
        yield jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
