"""Memory at the transition between phases: what one device holds while training/curriculum.py `next_state` converts the state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from neo_jax import config
from neo_jax.model.backbone import abstract
from neo_jax.training.curriculum import abstract_state
from neo_jax.training.step import TrainState

AVERAGE = "average of "  # in front of the parameter's name
Sizes = dict[str, int]  # bytes on one device, by parameter


def edge_bytes(settings: config.Config, before: config.Phase, after: config.Phase, old_mesh: Mesh, new_mesh: Mesh) -> int:
    """Returns the largest number of bytes that one device holds between the last step of `before` and the first of `after`.

    Follows the order of next_state: moments that are not carried over are released; parameters move one by one if the mesh changes; a Qwen3 gets
    the new parameters of a NEO; carried moments and averages move one by one; new ones are created.
    """
    old, new = abstract_state(settings, before, old_mesh), abstract_state(settings, after, new_mesh)
    with jax.set_mesh(new_mesh):
        moved = sizes_of(abstract(settings.model, before.architecture))  # in float32; scaled to their storage type below
    parameters, stored = sizes_of(old.parameters), {name: x.dtype.itemsize for name, x in old.parameters.items()}
    moved = {name: size // 4 * stored[name] for name, size in moved.items()}
    old_moments, new_moments = _sizes_beside(old), _sizes_beside(new)
    carried = {
        name: size for name, size in old_moments.items() if name in new_moments and (after.carry_optimizer or name.startswith(AVERAGE))
    }
    same = old_mesh == new_mesh

    held = sum(parameters.values()) + sum(carried.values())
    peak = sum(parameters.values()) + sum(old_moments.values())  # after the last step
    for name, size in moved.items():
        peak = max(peak, held + (0 if same else size))
        held += 0 if same else size - parameters[name]
    added = sum(sizes_of(new.parameters).values()) - sum(moved.values())  # parameters that a NEO has in addition to its Qwen3
    held += added
    peak = max(peak, held)
    for name, size in carried.items():
        peak = max(peak, held + (0 if same else new_moments[name]))
        held += 0 if same else new_moments[name] - size
    held += sum(size for name, size in new_moments.items() if name not in carried)
    return max(peak, held)


def _sizes_beside(state: TrainState) -> Sizes:
    """Returns the sizes of what a state has besides parameters: moments and averages, by name."""
    return sizes_of(state.moments) | {AVERAGE + name: size for name, size in sizes_of(state.average).items()}


def sizes_of(tree: Mapping[str, Any]) -> Sizes:
    """Returns the bytes in one device's memory of each entry, an array or a tuple of arrays."""

    def size(x: Any) -> int:
        if x.sharding.memory_kind == "pinned_host":
            return 0
        return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return {name: sum(map(size, jax.tree.leaves(entry))) for name, entry in tree.items()}
