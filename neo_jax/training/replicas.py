"""Compares the replicas of a state: parameters and moments that several devices hold are equal bit for bit unless one computes wrongly.

Devices that differ only in their place along mesh.data and mesh.context hold the same parts of every array.
"""

from __future__ import annotations

import collections
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from neo_jax.processes import exchange
from neo_jax.runs.record import array_checksum, leaf_weight
from neo_jax.sharding import AXES
from neo_jax.training.health import write_incident


class ReplicaError(RuntimeError):
    """Replicas differ: a device computes wrongly or has lost a bit. The message names it."""


def check_replicas(state: Any, mesh: Mesh, step: int, phase: str, directory: pathlib.Path) -> None:
    """Raises ReplicaError if a device holds other bits than its replicas, and writes an incident.

    Args:
      state: a pytree of arrays on the mesh, which is the current one.
      step, phase: of the run.
      directory: of the run.
    """
    sums = np.asarray(jax.device_get(replica_checksums(jax.tree.leaves(state))))
    places = [place for place in np.ndindex(sums.shape) if sums[place] != _usual(sums, place)]
    if places:
        devices: list[Any] = [mesh.devices[place] for place in places]
        names = ", ".join(f"{device} of process {device.process_index}" for device in devices)
        problem = (
            f"after step {step}, parameters or moments differ between replicas: {names} {'holds' if len(places) == 1 else 'hold'} other bits than "
            f"{'the majority' if _replicas(sums) > 2 else 'the other replica, and either may be wrong'}; the last checkpoint is from before. Test or "
            "replace the hardware and start the same command again"
        )
        if exchange.is_first():
            write_incident(directory, step, phase, "replicas differ", reason=problem)
        raise ReplicaError(problem)


def replica_checksums(leaves: list[jax.Array]) -> jax.Array:
    """Returns a uint32 checksum of what each device holds of some arrays, [data, fsdp, context, tensor], on every device."""
    return _checksums([jax.device_put(x, jax.memory.Space.Device) for x in leaves])


@jax.jit
def _checksums(leaves: list[jax.Array]) -> jax.Array:
    def local(*parts: jax.Array) -> jax.Array:
        total = jnp.uint32(0)
        for place, part in enumerate(parts):
            total = total + array_checksum(part) * jnp.uint32(leaf_weight(place))
        return total.reshape((1,) * len(AXES))

    specs = tuple(jax.typeof(x).sharding.spec for x in leaves)
    sums = jax.shard_map(local, in_specs=specs, out_specs=PartitionSpec(*AXES), check_vma=False)(*leaves)
    return jax.sharding.reshard(sums, PartitionSpec())


def _usual(sums: np.ndarray, place: tuple[int, ...]) -> int:
    """Returns the most frequent checksum among the replicas of a device."""
    _, fsdp, _, tensor = place
    ((value, _),) = collections.Counter(sums[:, fsdp, :, tensor].flat).most_common(1)
    return value


def _replicas(sums: np.ndarray) -> int:
    return sums.shape[AXES.index("data")] * sums.shape[AXES.index("context")]
