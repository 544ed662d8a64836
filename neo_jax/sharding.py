"""The mesh, and one table from logical axes to mesh axes.

Every array's sharding is written in logical axes ("batch", "heads", ...) and looked up here. Meshes are explicit: shardings are part of an
array's type, and an operation whose result would be ambiguous has to say what it wants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
    """A mesh of explicit axes `data`, `fsdp`, `context`, `tensor` over all devices.

    The slow network carries the axis that speaks least. Several TPU slices: `data` goes over the slices and the other axes stay inside one.
    GPUs: neighbours along `tensor` are neighbours in a node, then along `context`, `fsdp` and `data`. Within a slice, axes follow its wires.

    Args:
      data: size of the axis, or -1 for what the other axes leave.

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
    """Number of TPU slices that the devices belong to; 1 for others."""
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
    """The NamedSharding of every array of a Batch or ModelInputs on the mesh that is set: rows over data and fsdp, tokens over context.

    The visual tokens of a row are in the order of its context shards: each shard holds the pixels that its own tokens show.
    """
    leading = (None,) if accumulation_axis else ()
    mesh = jax.sharding.get_mesh()

    def sharding(path: tuple[Any, ...], x: Any) -> NamedSharding:
        second = None if path[-1].name == "pieces" else "length"
        return NamedSharding(mesh, spec(*leading, "batch", second, *([None] * (len(x.shape) - 2 - len(leading)))))

    return jax.tree_util.tree_map_with_path(sharding, batch)


def to_devices(batch: Any, accumulation_axis: bool = False) -> Any:
    """A Batch or ModelInputs of numpy arrays on the mesh that is set, as `batch_sharding` says.

    Args:
      batch: the rows that this process reads (`own_rows`), whole: arrays [rows, ...], or [accumulate, rows, ...] with `accumulation_axis`.
    """
    processes = row_shards() // len(own_rows(row_shards()))  # that rows are divided over

    def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        shape = list(array.shape)
        shape[accumulation_axis] *= processes
        return jax.make_array_from_process_local_data(sharding, array, tuple(shape))

    return jax.tree.map(put, batch, batch_sharding(batch, accumulation_axis))


def abstract_batch(rows: int, context: int, visual_tokens: int, accumulate: int) -> Batch:
    """Shape, type and sharding, on the mesh that is set, of what a training step reads.

    Args:
      rows: of a step; divided into `accumulate` passes.
      context, visual_tokens: of a row, as the phase says.
    """
    fields = batch_spec(rows // accumulate, context, visual_tokens, jax.sharding.get_mesh().shape["context"])
    shapes = map_arrays(lambda x: jax.ShapeDtypeStruct((accumulate, *x.shape), x.dtype), fields)
    shardings = batch_sharding(shapes, accumulation_axis=True)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings)


def row_shards() -> int:
    """How many parts the rows of a batch are divided into on the mesh that is set."""
    shape = jax.sharding.get_mesh().shape
    return shape["data"] * shape["fsdp"]


def own_rows(rows: int) -> list[range]:
    """Which of a batch's rows the devices of this process hold on the mesh that is set, ascending."""
    indices = NamedSharding(jax.sharding.get_mesh(), spec("batch")).addressable_devices_indices_map((rows,)).values()
    starts = sorted({(index[0].start or 0, rows if index[0].stop is None else index[0].stop) for index in indices if index is not None})
    return [range(start, stop) for start, stop in starts]
