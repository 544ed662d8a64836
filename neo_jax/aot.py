"""Compiling for TPUs that are not there: their devices, for jax.jit(...).lower(...).compile().

Needs the libtpu wheel, not a TPU: `make test-aot` brings it, or `pip install libtpu`. What a compiled program says of its memory is what the TPU
would need, and its errors (out of VMEM, a layout that is not supported) are the real ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

# Chip -> the smallest slice that the compiler describes.
CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}


@contextlib.contextmanager
def one_chip(chip: str) -> Iterator[jax.sharding.Sharding]:
    """Inside, what is traced is for one chip of this kind; yields the sharding for the arguments and results of jax.jit.

    Raises:
      ValueError: the chip is unknown.
      RuntimeError: libtpu is not installed.
    """
    if chip not in CHIPS:
        raise ValueError(f"unknown chip {chip!r}: it must be one of {', '.join(CHIPS)}")
    # A machine without TPUs: nothing is to be asked of the network about it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # the limit of one process is that of a real TPU
    devices = topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[chip]).devices
    mesh = Mesh(np.array(devices[:1]), ("chip",))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # a kernel asks it for the generation of TPU
        yield jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
