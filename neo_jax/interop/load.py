"""Loads the tensors of a checkpoint as parameters of this project: onto the current mesh one tensor at a time, or as numpy arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from neo_jax import config
from neo_jax.interop.errors import WeightsError
from neo_jax.interop.names import Entry, Table, copy_of_tied, table_of
from neo_jax.interop.tensors import StoredTensor
from neo_jax.model.backbone import Parameters, abstract

COMPARED_ROWS = 1 << 14  # of a tied output matrix and its embedding at a time


def load(model: config.Model, architecture: str, tensors: Mapping[str, StoredTensor], dtype: str | None = None) -> Parameters:
    """Reads the parameters of a model onto the current mesh. The host holds one tensor at a time, and it twice; each process reads all.

    Args:
      tensors: headers by official name (tensors.open_folder).
      dtype: type of the parameters; None: that of their tensors (of several layers, the one that holds the values of all).

    Raises:
      WeightsError: a tensor is missing, unknown, cannot be read, or has another shape than the model's.
    """
    table = checked_table(model, architecture, tensors)
    mesh = jax.sharding.get_mesh()
    shapes = abstract(model, architecture)
    parameters: Parameters = {}
    groups = by_parameter(table)
    # The largest tensors first: the host holds one twice while it is read, when few parameters are there yet.
    for name, entries in sorted(groups.items(), key=lambda item: -math.prod(item[1][0].shape)):
        kind = np.dtype(dtype or jnp.result_type(*(tensors[entry.name].dtype for entry in entries)))
        spec = shapes[name].sharding.spec
        if entries[0].layer is None:
            parameters[name] = _place(entries[0], tensors, NamedSharding(mesh, spec), kind)
            continue
        of_layer = NamedSharding(mesh, PartitionSpec(*spec[1:]))
        stack = _zeros(shapes[name].shape, kind, NamedSharding(mesh, spec))
        for number, entry in enumerate(entries):
            stack = _with_layer(stack, _place(entry, tensors, of_layer, kind), np.int32(number))
        parameters[name] = stack
    return {name: parameters[name] for name in groups}


def checked_table(model: config.Model, architecture: str, tensors: Mapping[str, StoredTensor]) -> Table:
    """Returns the table of a model after comparing a checkpoint's tensors with it. Raises WeightsError as `load` does."""
    table, copy = table_of(model, architecture), copy_of_tied(model, architecture)
    check_tensors(table, {name: tensor.shape for name, tensor in tensors.items()}, copy)
    _check_copy(tensors, copy)
    return table


def to_ours(table: Table, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts official arrays, by official name, to parameters, layers stacked. Raises WeightsError as `load` does."""
    check_tensors(table, {name: array.shape for name, array in arrays.items()})
    converted: dict[str, np.ndarray] = {}
    for name, entries in by_parameter(table).items():
        ours = [entry.layout.ours(arrays[entry.name]) for entry in entries]
        converted[name] = ours[0] if entries[0].layer is None else np.stack(ours)
    return converted


def to_official(table: Table, parameters: Iterable[tuple[str, jax.Array]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the official tensors of parameters, in the order in which these come, by name: contiguous arrays of the host."""
    groups = by_parameter(table)
    for name, value in parameters:
        for entry in groups[name]:
            array = np.asarray(value if entry.layer is None else value[entry.layer])
            yield entry.name, np.ascontiguousarray(entry.layout.official(array))


def by_parameter(table: Table) -> dict[str, list[Entry]]:
    """Returns the entries of each parameter, by its name, layers in order."""
    groups: dict[str, list[Entry]] = {}
    for entry in table:
        groups.setdefault(entry.parameter, []).append(entry)
    return groups


def check_tensors(table: Table, shapes: Mapping[str, tuple[int, ...]], copy: tuple[str, str] | None = None) -> None:
    """Raises WeightsError unless a checkpoint with tensors of these shapes, by name, holds those of the table; `copy` (copy_of_tied) is allowed."""
    for entry in table:
        if entry.name not in shapes:
            raise WeightsError(f"the checkpoint has no tensor {entry.name!r}: is config.json that of these weights?")
        if (shape := tuple(shapes[entry.name])) != entry.shape:
            raise WeightsError(f"tensor {entry.name!r} has shape {shape}, by config.json it is {entry.shape}: is it that of these weights?")
    known = {entry.name for entry in table} | ({copy[0]} if copy else set())
    if left := sorted(shapes.keys() - known):
        raise WeightsError(f"the checkpoint has {len(left)} tensors that the model has no place for, the first is {left[0]!r}")


def _check_copy(tensors: Mapping[str, StoredTensor], copy: tuple[str, str] | None) -> None:
    """Raises WeightsError if a tied checkpoint holds an output matrix that is not its embedding."""
    if copy is None or copy[0] not in tensors:
        return
    one, other = (tensors[name] for name in copy)
    same = one.shape == other.shape and all(
        np.array_equal(a, b) for a, b in zip(one.blocks(COMPARED_ROWS), other.blocks(COMPARED_ROWS), strict=True)
    )
    if not same:
        raise WeightsError(f"tensor {copy[0]!r} differs from {copy[1]!r}, but config.json ties them: is it that of these weights?")


def _place(entry: Entry, tensors: Mapping[str, StoredTensor], sharding: NamedSharding, dtype: np.dtype) -> jax.Array:
    array = entry.layout.ours(tensors[entry.name].read())
    # Not device_put: with several processes it would exchange the whole array to check that all have the same values.
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part].astype(dtype))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(shape: tuple[int, ...], dtype: np.dtype, sharding: NamedSharding) -> jax.Array:
    return jnp.zeros(shape, dtype, out_sharding=sharding)


@functools.partial(jax.jit, donate_argnums=0)
def _with_layer(stack: jax.Array, layer: jax.Array, number: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, layer, number, 0)
