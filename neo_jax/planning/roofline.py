"""A lower bound of a step's time, from the work that its program does.

    compute  = executed FLOPs of a device / peak
    memory   = (bytes of matrix products and attention + 2 x (trained parameters + optimizer) + 8 x trained parameters x passes) / HBM bandwidth;
               what an offloaded optimizer moves between host and device is not counted
    network  = sum over collectives: bytes x (n - 1) / n / bandwidth of the wires between the n devices; an all-reduce counts twice,
               a collective-permute sends its bytes whole; an all-to-all within a torus takes at least bytes x size / (4 x wires between
               its halves) of each dimension, since half of what each device has goes to the other half;
               where slices or nodes take part: within one first, then bytes x (groups - 1) / groups / (devices inside x slow bandwidth)
    exposed  = network of synchronous collectives + what asynchronous ones exceed max(compute, memory) by
    step     = max(compute, memory) + exposed
    MFU      = useful FLOPs / (devices x peak x step)

The wires of a TPU's ring: both directions of each torus dimension that its devices fill, one direction where its ends are not joined.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from neo_jax.planning.collectives import EXCHANGE_OF_SLICES, SUM_OF_SLICES, Collective
from neo_jax.planning.devices import Hardware

GRADIENT_BYTES = 8  # float32, read and written
DIE_TO_DIE = 6  # times an ICI link: between the two devices of one chip


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step, and what bounds it.

    Attributes:
      compute, memory, network, exposed, step: as in the formulas above.
      by_axis: network seconds by "kind over axes".
      bounded_by: "compute", "memory" or "network".
    """

    compute: float
    memory: float
    network: float
    exposed: float
    step: float
    by_axis: dict[str, float]
    bounded_by: str


def roofline(hardware: Hardware, flops: float, moved: float, sent: list[Collective], places: np.ndarray) -> Roofline:
    """The bound of a step.

    Args:
      flops, moved: FLOPs that a device executes, and bytes that it reads and writes.
      sent: collectives of the step.
      places: the mesh's devices as places in hardware.devices.
    """
    compute, memory = flops / hardware.chip.flops, moved / hardware.chip.hbm_bandwidth
    by_axis: dict[str, float] = collections.defaultdict(float)
    waiting = beside = 0.0
    for collective in sent:
        seconds = collective.count * duration(hardware, collective, [int(places[i]) for i in collective.members])
        by_axis[f"{collective.kind} over {' and '.join(collective.axes)}"] += seconds
        if collective.asynchronous:
            beside += seconds
        else:
            waiting += seconds
    busy = max(compute, memory)
    exposed = waiting + max(0.0, beside - busy)
    parts = {"compute": compute, "memory": memory, "network": exposed}
    return Roofline(
        compute,
        memory,
        waiting + beside,
        exposed,
        busy + exposed,
        dict(sorted(by_axis.items(), key=lambda item: -item[1])),
        max(parts, key=parts.__getitem__),
    )


def duration(hardware: Hardware, collective: Collective, members: list[int]) -> float:
    """Seconds of one collective among the devices with these places in hardware.devices."""
    if collective.kind in (SUM_OF_SLICES, EXCHANGE_OF_SLICES):
        share = (hardware.groups - 1) / hardware.groups
        return (2 if collective.kind == SUM_OF_SLICES else 1) * collective.bytes * share / hardware.chip.slow_bandwidth
    groups = collections.Counter(hardware.group(member) for member in members)
    inside, count = max(groups.values()), len(groups)
    twice, permutes = 2 if collective.kind == "all-reduce" else 1, collective.kind == "collective-permute"
    seconds = 0.0
    if inside > 1:
        first = [member for member in members if hardware.group(member) == hardware.group(members[0])]
        seconds += collective.bytes * (1 if permutes else (inside - 1) / inside) / _wires(hardware, first)
        if collective.kind == "all-to-all":
            seconds = max([seconds, *(collective.bytes * size / (4 * wires) for size, wires in _dimensions(hardware, first))])
    if count > 1:
        seconds += collective.bytes * (1 if permutes else (count - 1) / count) / (inside * hardware.chip.slow_bandwidth)
    return twice * seconds


def _wires(hardware: Hardware, members: list[int]) -> float:
    """Bytes/s at which each of these devices of one slice or node hears from the others."""
    chip = hardware.chip
    if not chip.torus:
        return chip.link_bandwidth
    return sum(wires for _, wires in _dimensions(hardware, members)) or DIE_TO_DIE * chip.link_bandwidth


def _dimensions(hardware: Hardware, members: list[int]) -> list[tuple[int, float]]:
    """(chips, bytes/s one way at each of them) of the torus dimensions along which these devices differ; none where there is no torus."""
    chip = hardware.chip
    coordinates = np.array([hardware.devices[member].coords[: chip.torus] for member in members]) if chip.torus else np.empty((0, 0))
    found = []
    for dimension in range(chip.torus):
        used, size = len(set(coordinates[:, dimension])), 1 + max(device.coords[dimension] for device in hardware.devices)
        if used > 1:
            found.append((used, chip.link_bandwidth * (2 if used == size and size >= chip.wrap else 1)))
    return found
