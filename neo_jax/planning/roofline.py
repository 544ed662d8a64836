"""Roofline: a lower bound on the time of a step, from the work of its program.

    compute  = executed FLOPs of a device / peak
    memory   = (bytes of matrix products and attention + 2 x (trained parameters + optimizer) + 8 x trained parameters x passes) / HBM bandwidth;
               transfers of an offloaded optimizer between host and device are not counted
    network  = sum over collectives of bytes x (n - 1) / n / bandwidth of the links between the n devices; an all-reduce counts twice,
               a collective-permute sends all its bytes; an all-to-all within a torus takes at least bytes x size / (4 x bandwidth of a
               dimension) for each dimension, since half of each device's data goes to the other half of the torus;
               over several slices or nodes: first within one, then bytes x (groups - 1) / groups / (devices inside x slow bandwidth)
    exposed  = network time of synchronous collectives + the part of the asynchronous one that exceeds max(compute, memory)
    step     = max(compute, memory) + exposed
    MFU      = useful FLOPs / (devices x peak x step)

Bandwidth of the links of a TPU: over each torus dimension along which the devices differ, both directions if they fill the dimension and its ends are
joined, else one.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from neo_jax.planning.collectives import EXCHANGE_OF_SLICES, SUM_OF_SLICES, Collective
from neo_jax.planning.devices import Hardware

GRADIENT_BYTES = 8  # per parameter: float32, read and written
DIE_TO_DIE = 6  # bandwidth between the two devices of one chip, in multiples of an ICI link


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The lower bound on the time of a step.

    Attributes:
      compute, memory, network, exposed, step: seconds, by the formulas above.
      by_axis: network seconds by "kind over axes".
      bounded_by: the largest of "compute", "memory" and "network" (its exposed part).
    """

    compute: float
    memory: float
    network: float
    exposed: float
    step: float
    by_axis: dict[str, float]
    bounded_by: str


def roofline(hardware: Hardware, flops: float, moved: float, sent: list[Collective], places: np.ndarray) -> Roofline:
    """Returns the lower bound on the time of a step.

    Args:
      flops, moved: FLOPs that a device executes, and bytes that it reads and writes.
      sent: collectives of the step.
      places: indexes in hardware.devices of the devices of the mesh, in its order.
    """
    compute, memory = flops / hardware.chip.flops, moved / hardware.chip.hbm_bandwidth
    by_axis: dict[str, float] = collections.defaultdict(float)
    synchronous = asynchronous = 0.0  # seconds
    for collective in sent:
        seconds = collective.count * duration(hardware, collective, [int(places[i]) for i in collective.members])
        by_axis[f"{collective.kind} over {' and '.join(collective.axes)}"] += seconds
        if collective.asynchronous:
            asynchronous += seconds
        else:
            synchronous += seconds
    busy = max(compute, memory)
    exposed = synchronous + max(0.0, asynchronous - busy)
    parts = {"compute": compute, "memory": memory, "network": exposed}
    return Roofline(
        compute,
        memory,
        synchronous + asynchronous,
        exposed,
        busy + exposed,
        dict(sorted(by_axis.items(), key=lambda item: -item[1])),
        max(parts, key=parts.__getitem__),
    )


def duration(hardware: Hardware, collective: Collective, members: list[int]) -> float:
    """Returns the seconds of one collective among the devices with these indexes in hardware.devices."""
    if collective.kind in (SUM_OF_SLICES, EXCHANGE_OF_SLICES):
        share = (hardware.groups - 1) / hardware.groups
        return (2 if collective.kind == SUM_OF_SLICES else 1) * collective.bytes * share / hardware.chip.slow_bandwidth
    groups = collections.Counter(hardware.group(member) for member in members)
    inside, count = max(groups.values()), len(groups)
    twice, permutes = 2 if collective.kind == "all-reduce" else 1, collective.kind == "collective-permute"
    seconds = 0.0
    if inside > 1:
        first = [member for member in members if hardware.group(member) == hardware.group(members[0])]
        seconds += collective.bytes * (1 if permutes else (inside - 1) / inside) / _bandwidth(hardware, first)
        if collective.kind == "all-to-all":
            seconds = max([seconds, *(collective.bytes * size / (4 * bandwidth) for size, bandwidth in _dimensions(hardware, first))])
    if count > 1:
        seconds += collective.bytes * (1 if permutes else (count - 1) / count) / (inside * hardware.chip.slow_bandwidth)
    return twice * seconds


def _bandwidth(hardware: Hardware, members: list[int]) -> float:
    """Returns the bytes/s at which each of these devices, all of one slice or node, receives from the others."""
    chip = hardware.chip
    if not chip.torus:
        return chip.link_bandwidth
    return sum(bandwidth for _, bandwidth in _dimensions(hardware, members)) or DIE_TO_DIE * chip.link_bandwidth


def _dimensions(hardware: Hardware, members: list[int]) -> list[tuple[int, float]]:
    """Returns (chips, bytes/s into each chip) of each torus dimension along which these devices differ; [] for hardware without a torus."""
    chip = hardware.chip
    coordinates = np.array([hardware.devices[member].coords[: chip.torus] for member in members]) if chip.torus else np.empty((0, 0))
    found = []
    for dimension in range(chip.torus):
        used, size = len(set(coordinates[:, dimension])), 1 + max(device.coords[dimension] for device in hardware.devices)
        if used > 1:
            found.append((used, chip.link_bandwidth * (2 if used == size and size >= chip.wrap else 1)))
    return found
