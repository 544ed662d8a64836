"""Meshes over real topologies of TPU slices."""

import pytest

from neo_jax.aot import CHIPS, one_chip
from neo_jax.sharding import make_mesh, slice_count


def devices(topology: str, slices: int):
    from jax.experimental import topologies

    with one_chip("v5p"):  # sets what libtpu asks for
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, num_slices=slices).devices


@pytest.mark.parametrize("chip", CHIPS)
def test_only_data_crosses_slices(chip):
    slices = devices(CHIPS[chip], 2)
    assert slice_count(slices) == 2
    inside = len(slices) // 2
    mesh = make_mesh(data=-1, fsdp=inside, devices=slices)
    assert mesh.shape["data"] == 2
    for data in mesh.devices:
        assert len({device.slice_index for device in data.flat}) == 1
    with pytest.raises(ValueError, match="only data may cross them; data 2 x fsdp"):
        make_mesh(data=1, fsdp=2 * inside, devices=slices)


@pytest.mark.parametrize("sizes", [(16, 16, 1, 1), (2, 64, 2, 1), (1, 256, 1, 1), (8, 8, 2, 2), (2, 32, 4, 1)])
def test_meshes_of_256_chips_follow_the_wires(sizes):
    assert make_mesh(*sizes, devices=devices("v5p:4x8x8", 1)).devices.shape == sizes
