"""A flipped bit in one replica is found and its device named, on meshes whose arrays are divided and repeated in several ways."""

import jax
import numpy as np
import pytest

from neo_jax.exit_codes import TRY_AGAIN
from neo_jax.sharding import make_mesh
from neo_jax.train import CODES
from neo_jax.training.replicas import ReplicaError, check_replicas
from tests.neo_jax.tiny_model import model, on_mesh, parameters

MODEL = model()


def flipped(array: jax.Array, device: jax.Device, dtype=np.uint32) -> jax.Array:
    """The same array but for one bit of what a device holds."""
    parts = []
    for shard in array.addressable_shards:
        values = np.array(shard.data)
        if shard.device == device:
            values.view(dtype).flat[-1] ^= 1
        parts.append(jax.device_put(values, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


@pytest.mark.parametrize(
    ("axes", "place"),
    [
        ({"data": 4, "fsdp": 2}, (2, 1, 0, 0)),
        ({"data": 2, "context": 2, "tensor": 2}, (1, 0, 1, 1)),
        ({"context": 4, "fsdp": 2}, (0, 0, 3, 0)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (1, 1, 0, 1)),
    ],
)
@pytest.mark.parametrize("name", ["base.mlp.gate", "base.attention.q_norm", "embedding"])
def test_a_flipped_bit_is_found(axes, place, name, tmp_path):
    mesh = make_mesh(**axes)
    with jax.set_mesh(mesh):
        state = on_mesh(MODEL, "neo", parameters(MODEL, "neo", seed=1))
        check_replicas(state, mesh, 7, "mid", tmp_path)
        device = mesh.devices[place]
        state[name] = flipped(state[name], device)
        with pytest.raises(ReplicaError, match="after step 7, parameters or moments differ") as found:
            check_replicas(state, mesh, 7, "mid", tmp_path)
    assert "replicas differ" in (tmp_path / "incidents.jsonl").read_text()
    if len(mesh.devices.flat) // (axes.get("fsdp", 1) * axes.get("tensor", 1)) > 2:
        assert f": {device} of process 0 holds other bits than the majority" in str(found.value)
    else:
        assert "either may be wrong" in str(found.value)


def test_without_replicas_nothing_differs(tmp_path):
    mesh = make_mesh(fsdp=4, tensor=2)
    with jax.set_mesh(mesh):
        check_replicas(on_mesh(MODEL, "neo", parameters(MODEL, "neo", seed=1)), mesh, 1, "mid", tmp_path)


def test_the_run_is_started_again():
    assert CODES[ReplicaError] == TRY_AGAIN
