"""The device mesh, and the table from logical axes to mesh axes.

Shardings are written in logical axes ("batch", "heads", ...), which are translated here. Mesh axes are explicit: the sharding is part of an array's
type, and an operation whose result sharding is ambiguous must state it (out_sharding).
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.batch import Batch, batch_spec, map_arrays

AXES = ("data", "fsdp", "context", "tensor")
RULES: dict[str, str | tuple[str, ...]] = {
    "batch": ("data", "fsdp"),  # rows of a batch
    "length": "context",  # tokens of a row
    "embed": "fsdp",  # the hidden axis of parameters
    "vocabulary": "tensor",  # rows of the embedding and output matrices
    "heads": "tensor",
    "mlp": "tensor",
}


def spec(*logical: str | None) -> PartitionSpec:
    """Returns the partition of an array whose dimensions carry these logical axes (None: not partitioned)."""
    return PartitionSpec(*(RULES[name] if name else None for name in logical))


def make_mesh(data: int = 1, fsdp: int = 1, context: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with explicit axes `data`, `fsdp`, `context`, `tensor` over all devices.

    Axes that communicate least use the slow network. With several TPU slices, only `data` crosses slices. On GPUs, neighbours along `tensor` are
    neighbours in a node, then those along `context`, `fsdp` and `data`. Within a TPU slice, axes follow the physical torus.

    Args:
      data: size of the axis; -1: the number of devices divided by the other axes.
      devices: None: all devices of the run.

    Raises:
      ValueError: the sizes do not fit the devices (mesh_problem).
    """
    devices = jax.devices() if devices is None else list(devices)
    slices = slice_count(devices)
    if problem := mesh_problem(data, fsdp, context, tensor, len(devices), slices):
        raise ValueError(f"mesh: {problem}")
    data = len(devices) // (fsdp * context * tensor)
    if devices[0].platform != "tpu":
        arranged = np.asarray(devices).reshape(data, fsdp, context, tensor)
    elif slices == 1:
        arranged = mesh_utils.create_device_mesh((data, fsdp, context, tensor), devices, allow_split_physical_axes=True)
    else:
        inside = (data // slices, fsdp, context, tensor)
        arranged = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES, axis_types=(jax.sharding.AxisType.Explicit,) * len(AXES))


def slice_count(devices: Sequence[jax.Device]) -> int:
    """Returns the number of TPU slices that the devices belong to; 1 for other devices."""
    return len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1


def mesh_problem(data: int, fsdp: int, context: int, tensor: int, devices: int, slices: int = 1) -> str | None:
    """Returns None if a mesh of these sizes (data -1: the rest) fits so many devices in so many slices, else a message naming one that does."""
    inside = devices // slices
    others = fsdp * context * tensor
    fits = devices % others == 0 and data in (-1, devices // others)
    if fits and inside % others == 0:
        return None
    kept_tensor = math.gcd(tensor, inside)
    kept_context = math.gcd(context, inside // kept_tensor)
    kept_fsdp = math.gcd(fsdp, inside // (kept_tensor * kept_context))
    rest = devices // (kept_tensor * kept_context * kept_fsdp)
    would = f"data {rest} x fsdp {kept_fsdp} x context {kept_context} x tensor {kept_tensor} would"
    sizes = f"data {data} x fsdp {fsdp} x context {context} x tensor {tensor}"
    if fits:
        return (
            f"{sizes} puts {others} devices of fsdp, context and tensor over slices of {inside}, and only data may cross them; {would} fit"
        )
    return f"{sizes} does not make {devices} devices{', data -1 standing for the rest' if data == -1 else ''}; {would}"


def batch_sharding(batch: Any, accumulation_axis: bool = False) -> Any:
    """Returns the NamedSharding of every array of a Batch or ModelInputs on the current mesh: rows over data and fsdp, tokens over context.

    The visual tokens of a row are ordered by context shard, so that each shard holds the pixels of its own image tokens.
    """
    leading = (None,) if accumulation_axis else ()
    mesh = jax.sharding.get_mesh()

    def sharding(path: tuple[Any, ...], x: Any) -> NamedSharding:
        second = None if path[-1].name == "pieces" else "length"
        return NamedSharding(mesh, spec(*leading, "batch", second, *([None] * (len(x.shape) - 2 - len(leading)))))

    return jax.tree_util.tree_map_with_path(sharding, batch)


def to_devices(batch: Any, accumulation_axis: bool = False) -> Any:
    """Copies a Batch or ModelInputs of numpy arrays to the current mesh, sharded by `batch_sharding`; returns global arrays.

    Args:
      batch: the rows that this process reads (`own_rows`), all tokens of each: arrays [rows, ...], or [accumulate, rows, ...] with
        `accumulation_axis`.
    """
    processes = row_shards() // len(own_rows(row_shards()))  # number of processes that the rows are divided over

    def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        shape = list(array.shape)
        shape[accumulation_axis] *= processes
        return jax.make_array_from_process_local_data(sharding, array, tuple(shape))

    return jax.tree.map(put, batch, batch_sharding(batch, accumulation_axis))


def abstract_batch(rows: int, context: int, visual_tokens: int, accumulate: int) -> Batch:
    """Returns shape, type and sharding, on the current mesh, of the batch of a training step.

    Args:
      rows: rows of a step, divided into `accumulate` passes.
      context, visual_tokens: numbers of tokens and of visual tokens of a row.
    """
    fields = batch_spec(rows // accumulate, context, visual_tokens, jax.sharding.get_mesh().shape["context"])
    shapes = map_arrays(lambda x: jax.ShapeDtypeStruct((accumulate, *x.shape), x.dtype), fields)
    shardings = batch_sharding(shapes, accumulation_axis=True)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings)


def row_shards() -> int:
    """Returns the number of parts that the rows of a batch are divided into on the current mesh."""
    shape = jax.sharding.get_mesh().shape
    return shape["data"] * shape["fsdp"]


def own_rows(rows: int) -> list[range]:
    """Returns the ranges of a batch's rows that the devices of this process hold on the current mesh, ascending."""
    indices = NamedSharding(jax.sharding.get_mesh(), spec("batch")).addressable_devices_indices_map((rows,)).values()
    starts = sorted({(index[0].start or 0, rows if index[0].stop is None else index[0].stop) for index in indices if index is not None})
    return [range(start, stop) for start, stop in starts]


class HeldPart(NamedTuple):
    """The part of its rows that a process holds on a mesh.

    Attributes:
      shards: context shards that its devices hold, ascending.
      processes: indexes of the processes that hold parts of the same rows, itself among them, ascending.
    """

    shards: list[int]
    processes: list[int]


def held_part(owners: np.ndarray, process: int) -> HeldPart:
    """Returns the part of its rows that a process holds.

    Args:
      owners: [data, fsdp, context, tensor] process of each device (`owners_of`).
    """
    own = owners == process
    return HeldPart(np.flatnonzero(own.any(axis=(0, 1, 3))).tolist(), np.unique(owners[own.any(axis=(2, 3))]).tolist())


def owners_of(mesh: Mesh) -> np.ndarray:
    """Returns [data, fsdp, context, tensor] the process of each device of a mesh."""
    return np.array([device.process_index for device in mesh.devices.flat]).reshape(mesh.devices.shape)


def overlap_problem(owners: np.ndarray) -> str | None:
    """Returns None if any two processes hold parts of the same rows or of no common row, else a message."""
    context, tensor = owners.shape[2:]
    groups = {tuple(sorted(set(row))) for row in owners.reshape(-1, context * tensor).tolist()}
    process, count = collections.Counter(process for group in groups for process in group).most_common(1)[0]
    if count == 1:
        return None
    return (
        f"with context {context} x tensor {tensor} devices a row, process {process} holds parts of rows that it shares with different processes; "
        "take a product that the devices of a process divide, or that divides them"
    )
