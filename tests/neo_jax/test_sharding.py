"""Meshes, batches on them, and what is refused."""

import jax
import numpy as np
import pytest

from data_pipelines.batch import arrays, map_arrays
from neo_jax.sharding import abstract_batch, held_part, make_mesh, mesh_problem, overlap_problem, to_devices
from tests.neo_jax.tiny_model import arranged, batch


@pytest.mark.parametrize(
    ("sizes", "devices", "slices", "problem"),
    [
        ((-1, 4, 2, 1), 8, 1, None),
        ((2, 2, 2, 1), 8, 1, None),
        ((2, 4, 1, 1), 8, 2, None),
        ((4, 1, 1, 2), 8, 4, None),
        ((2, 2, 1, 1), 8, 1, "does not make 8 devices; data 4 x fsdp 2 x context 1 x tensor 1 would"),
        ((-1, 3, 1, 1), 8, 1, "does not make 8 devices, data -1 standing for the rest; data 8 x fsdp 1 x context 1 x tensor 1 would"),
        ((-1, 16, 1, 1), 8, 1, "data 1 x fsdp 8 x context 1 x tensor 1 would"),
        ((1, 8, 1, 1), 8, 2, "only data may cross them; data 2 x fsdp 4 x context 1 x tensor 1 would fit"),
        ((-1, 2, 2, 2), 12, 1, "data 3 x fsdp 1 x context 2 x tensor 2 would"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_one_that_does(sizes, devices, slices, problem):
    found = mesh_problem(*sizes, devices, slices)
    assert (found is None) == (problem is None) and (problem or "") in (found or "")
    if found:
        would = [int(word) for word in found.split("; ")[1].split() if word.isdigit()]
        assert mesh_problem(*would, devices, slices) is None


def test_a_mesh_refuses_other_devices():
    with pytest.raises(ValueError, match="mesh: data 2 x fsdp 2 x context 1 x tensor 1 does not make 8 devices"):
        make_mesh(data=2, fsdp=2)


@pytest.mark.parametrize("axes", [{"data": 8}, {"fsdp": 2, "context": 4}, {"context": 8}])
def test_a_shard_holds_the_pixels_of_its_own_tokens(axes):
    """No device holds a row's pixels that another context shard shows."""
    shards = axes.get("context", 1)
    with jax.set_mesh(make_mesh(**axes)):
        placed = to_devices(arranged(batch(8)))
    for shard, slots in zip(placed.inputs.visual.addressable_shards, placed.inputs.visual_slot.addressable_shards, strict=True):
        assert shard.device == slots.device
        assert shard.data.shape[1] == min(32, 64 // shards) and slots.data.shape[1] == 64 // shards
        assert slots.data.max() < shard.data.shape[1]


def test_abstract_batch_is_what_a_step_reads():
    with jax.set_mesh(make_mesh(fsdp=2, context=4)):
        shapes = abstract_batch(rows=8, context=64, visual_tokens=32, accumulate=2)
        rows = map_arrays(lambda array: array.reshape(2, 4, *array.shape[1:]), arranged(batch(8)))
        placed = to_devices(rows, accumulation_axis=True)
    for (name, shape), (_, on_mesh), (_, row) in zip(arrays(shapes), arrays(placed), arrays(rows), strict=True):
        assert (shape.shape, shape.dtype, shape.sharding) == (on_mesh.shape, on_mesh.dtype, on_mesh.sharding), name
        assert np.array_equal(on_mesh, row)
    assert len(list(arrays(shapes))) == 11


def owners(data, fsdp, context, tensor, devices):
    """Processes with so many devices each, in the order of the mesh."""
    return (np.arange(data * fsdp * context * tensor) // devices).reshape(data, fsdp, context, tensor)


@pytest.mark.parametrize(
    ("sizes", "devices", "process", "shards", "processes"),
    [
        ((2, 2, 1, 1), 2, 1, [0], [1]),
        ((1, 2, 4, 1), 4, 1, [0, 1, 2, 3], [1]),
        ((1, 2, 8, 1), 4, 3, [4, 5, 6, 7], [2, 3]),
        ((1, 1, 2, 4), 2, 2, [1], [0, 1, 2, 3]),
        ((1, 1, 4, 2), 4, 0, [0, 1], [0, 1]),
    ],
)
def test_what_a_process_holds_of_its_rows(sizes, devices, process, shards, processes):
    of_devices = owners(*sizes, devices)
    assert held_part(of_devices, process) == (shards, processes)
    assert overlap_problem(of_devices) is None


def test_processes_that_share_some_of_their_rows_are_refused():
    """Six devices a row, four a process: process 1 holds the end of one row and the beginning of the next."""
    problem = overlap_problem(owners(2, 1, 6, 1, 4))
    assert problem and "context 6 x tensor 1" in problem and "process 1 holds" in problem
