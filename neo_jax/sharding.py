"""The mesh, and one table from logical axes to mesh axes.

Every array's sharding is written in logical axes ("batch", "heads", ...) and looked up here. Meshes are explicit: shardings are part of an
array's type, and an operation whose result would be ambiguous has to say what it wants.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "context", "tensor")

RULES: dict[str, str | tuple[str, ...]] = {
    "batch": ("data", "fsdp"),  # rows of a batch
    "length": "context",  # tokens of a row
    "embed": "fsdp",  # the hidden axis of parameters
    "heads": "tensor",
    "mlp": "tensor",
}


def spec(*logical: str | None) -> PartitionSpec:
    """The partition of an array whose dimensions carry these logical axes (None: not partitioned)."""
    return PartitionSpec(*(RULES[name] if name else None for name in logical))


def make_mesh(data: int = 1, fsdp: int = 1, context: int = 1, tensor: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of explicit axes `data`, `fsdp`, `context`, `tensor` over all devices.

    Args:
      data: size of the axis, or -1 for what the other axes leave.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    others = fsdp * context * tensor
    if data == -1 and len(devices) % others == 0:
        data = len(devices) // others
    if data * others != len(devices):
        raise ValueError(
            f"mesh data={data} x fsdp={fsdp} x context={context} x tensor={tensor} needs {abs(data) * others} devices, this run has "
            f"{len(devices)}: choose axes whose product is {len(devices)}, or data=-1 for the rest"
        )
    kinds = (jax.sharding.AxisType.Explicit,) * len(AXES)
    return Mesh(np.asarray(devices).reshape(data, fsdp, context, tensor), AXES, axis_types=kinds)


def to_devices(batch: dict[str, np.ndarray], accumulation_axis: bool = False) -> dict[str, jax.Array]:
    """A batch (data_pipelines.schema.batch_fields) on the mesh that is set: rows over data and fsdp, tokens over context.

    Pixels stay whole along a row: a sequence shard gathers the visual tokens that its slots point to.

    Args:
      batch: the rows that this process reads, arrays [rows, ...], or [accumulate, rows, ...] with `accumulation_axis`.
    """
    mesh = jax.sharding.get_mesh()

    def put(name: str, array: np.ndarray) -> jax.Array:
        second = None if name in ("visual", "visual_position") else "length"
        leading = (None,) if accumulation_axis else ()
        partition = spec(*leading, "batch", second, *([None] * (array.ndim - 2 - len(leading))))
        return jax.make_array_from_process_local_data(NamedSharding(mesh, partition), array)

    return {name: put(name, array) for name, array in batch.items()}


def own_rows(rows: int) -> list[range]:
    """Which of a batch's rows the devices of this process hold on the mesh that is set, ascending."""
    indices = NamedSharding(jax.sharding.get_mesh(), spec("batch")).addressable_devices_indices_map((rows,)).values()
    starts = sorted({(index[0].start or 0, rows if index[0].stop is None else index[0].stop) for index in indices if index is not None})
    return [range(start, stop) for start, stop in starts]
