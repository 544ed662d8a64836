"""Hosts of known accelerators in Google Cloud: how many chips each has, and the names by which clusters know them.

Sources: Google Cloud's pages "Plan TPUs in GKE" and "TPU software versions"; the table of systems of xpk (system_characteristics.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from neo_jax.config import ConfigError
from neo_jax.planning.devices import HardwareError, parse


@dataclasses.dataclass(frozen=True)
class Kind:
    """What clusters call a kind of accelerator.

    Attributes:
      resource: that a pod requests.
      labels: of GKE's nodes, beside the topology.
      prefix: of its types in xpk and of TPU VMs, which a number follows; "" for GPUs.
      cores: that this number counts for each chip.
      runtime: software version of its TPU VMs; "" if it has none.
    """

    resource: str
    labels: Mapping[str, str]
    prefix: str
    cores: int = 1
    runtime: str = ""


TPU, GPU = "google.com/tpu", "nvidia.com/gpu"
TPU_LABEL, GPU_LABEL = "cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-accelerator"
TOPOLOGY = "cloud.google.com/gke-tpu-topology"
TPU_CHIPS = 4  # of a host of a slice of more than one chip
KINDS = {
    "v5e": Kind(TPU, {TPU_LABEL: "tpu-v5-lite-podslice"}, "v5litepod", runtime="v2-alpha-tpuv5-lite"),
    "v5p": Kind(TPU, {TPU_LABEL: "tpu-v5p-slice"}, "v5p", cores=2, runtime="v2-alpha-tpuv5"),
    "v6e": Kind(TPU, {TPU_LABEL: "tpu-v6e-slice"}, "v6e", runtime="v2-alpha-tpuv6e"),
    "tpu7x": Kind(TPU, {TPU_LABEL: "tpu7x"}, "tpu7x", cores=2),
    "h100": Kind(GPU, {GPU_LABEL: "nvidia-h100-80gb"}, ""),
    "h200": Kind(GPU, {GPU_LABEL: "nvidia-h200-141gb"}, ""),
}


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The hosts of a run.

    Attributes:
      chip: name of the chip, as in neo_jax.chips.
      slices: number of slices; 1 for GPUs.
      count: hosts of each slice; of GPUs all nodes.
      chips: of each host.
      topology: of a TPU slice, such as "4x4x4"; "" for GPUs.
    """

    chip: str
    slices: int
    count: int
    chips: int
    topology: str

    @property
    def kind(self) -> Kind:
        return KINDS[self.chip]

    @property
    def is_tpu(self) -> bool:
        return bool(self.topology)


def find_hosts(hardware: str) -> Hosts:
    """Returns the hosts of hardware as plans take it: v5p:4x4x4, 2*v6e:16x16 (two slices), h200:4x8 (four nodes of eight GPUs).

    Raises:
      ConfigError: the hardware is not understood, or its hosts cannot have such a shape.
    """
    try:
        chip, slices, shape = parse(hardware)
    except HardwareError as error:
        raise ConfigError([str(error)]) from error
    if not chip.torus:
        return Hosts(chip.name, 1, shape[0], shape[1], "")
    chips = math.prod(shape)
    each = 1 if chips == 1 else TPU_CHIPS
    if chips % each:
        raise ConfigError([f"--hardware={hardware}: {chips} chips: a host has {TPU_CHIPS}; {', '.join(chip.known)} are known"])
    return Hosts(chip.name, slices, chips // each, each, "x".join(map(str, shape)))
