"""The planned memory of a phase's edge against what the devices hold while the state is really handed over."""

import dataclasses
import gc
import math

import jax
import jax.numpy as jnp
import pytest

from neo_jax.config import Config
from neo_jax.planning.edges import edge_bytes
from neo_jax.training import curriculum
from neo_jax.training.curriculum import abstract_state, next_state, phase_mesh
from neo_jax.training.step import TrainState
from tests.neo_jax.planning.tiny import CONFIGURATION

SMALL = 20_000  # bytes: step counts, and what the runtime keeps


def bytes_of_device() -> int:
    """Of the first device. From shapes: the data of a shard, once looked at, is a live array of its own."""
    arrays = [x for x in jax.live_arrays() if jax.devices()[0] in x.sharding.device_set]
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays)


@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize("trains", ["all", "new"])
def test_the_edge_holds_what_is_planned(monkeypatch, trains, carry):
    settings = Config.from_config_dict(CONFIGURATION)
    before, after = settings.phases
    before, after = dataclasses.replace(before, trains=trains), dataclasses.replace(after, carry_optimizer=carry)
    old_mesh, new_mesh = phase_mesh(before), phase_mesh(after)
    gc.collect()
    outside = bytes_of_device()
    with jax.set_mesh(old_mesh):
        shapes = abstract_state(settings, before, old_mesh)
        state: TrainState = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, out_sharding=x.sharding), shapes)
    seen = [bytes_of_device() - outside]
    wait = jax.block_until_ready

    def waited(array):
        """Called when one array has moved and the old one is still held."""
        seen.append(bytes_of_device() - outside)
        return wait(array)

    monkeypatch.setattr(curriculum.jax, "block_until_ready", waited)
    with jax.set_mesh(new_mesh):
        state = next_state(settings, state, before, after)
        seen.append(bytes_of_device() - outside)
    assert len(seen) >= len(state.parameters)  # each array was looked at while it moved
    planned = edge_bytes(settings, before, after, old_mesh, new_mesh)
    assert planned - SMALL <= max(seen) <= planned + SMALL
