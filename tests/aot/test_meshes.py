"""Meshes over real topologies of TPU slices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from neo_jax.planning.collectives import SUM_OF_SLICES, collectives
from neo_jax.planning.devices import SMALLEST_SLICES, open_hardware
from neo_jax.sharding import make_mesh, slice_count, spec


@pytest.mark.parametrize("chip", SMALLEST_SLICES)
def test_only_data_crosses_slices(chip):
    slices = open_hardware(f"2*{SMALLEST_SLICES[chip]}").devices
    assert slice_count(slices) == 2
    inside = len(slices) // 2
    mesh = make_mesh(data=-1, fsdp=inside, devices=slices)
    assert mesh.shape["data"] == 2
    for data in mesh.devices:
        assert len({device.slice_index for device in data.flat}) == 1
    with pytest.raises(ValueError, match="only data may cross them; data 2 x fsdp"):
        make_mesh(data=1, fsdp=2 * inside, devices=slices)


def test_what_crosses_slices_is_counted():
    """The gradient of a matrix over two slices: its part of each device is summed between them."""
    mesh = make_mesh(data=-1, fsdp=2, devices=open_hardware("2*v5e:2x2").devices)
    with jax.set_mesh(mesh):
        x = jax.ShapeDtypeStruct((64, 2048), jnp.bfloat16, sharding=NamedSharding(mesh, spec("batch", None)))
        w = jax.ShapeDtypeStruct((2048, 4096), jnp.float32, sharding=NamedSharding(mesh, spec("embed", None)))

        def loss(w, x):
            out = jnp.einsum("bd,df->bf", x, w.astype(jnp.bfloat16), out_sharding=spec("batch", None))
            return jnp.square(out).sum().astype(jnp.float32)

        text = jax.jit(jax.grad(loss)).lower(w, x).compile().as_text()
    (crossing,) = [each for each in collectives(text, dict(mesh.shape)) if each.kind == SUM_OF_SLICES]
    assert crossing.bytes == 2 * 2048 * 4096 // 4  # bfloat16; summed over the four devices of a slice before


@pytest.mark.parametrize("sizes", [(16, 16, 1, 1), (2, 64, 2, 1), (1, 256, 1, 1), (8, 8, 2, 2), (2, 32, 4, 1)])
def test_meshes_of_256_chips_follow_the_wires(sizes):
    assert make_mesh(*sizes, devices=open_hardware("v5p:4x8x8").devices).devices.shape == sizes
