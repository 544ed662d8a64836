"""The transition from one phase to the next: parameters, optimizer state and mesh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from neo_jax import config
from neo_jax.config.fields import near_multiples
from neo_jax.model.backbone import Parameters, abstract, initialise
from neo_jax.model.initialise import neo_from_qwen3
from neo_jax.sharding import make_mesh, mesh_problem
from neo_jax.training.optimizer import initial_moments, split, to_storage, trains
from neo_jax.training.step import TrainState


def phase_mesh(phase: config.Phase) -> Mesh:
    """The mesh a phase runs on, over all devices of the run. Raises ValueError where the sizes do not fit them."""
    mesh = phase.mesh
    return make_mesh(mesh.data, mesh.fsdp, mesh.context, mesh.tensor)


def mesh_problems(settings: config.Config, devices: int, slices: int = 1) -> list[str]:
    """Returns a sentence for each phase whose mesh or rows do not fit `devices` devices in `slices` TPU slices, with sizes that would fit."""
    problems = []
    for phase in settings.phases:
        mesh = phase.mesh
        if problem := mesh_problem(mesh.data, mesh.fsdp, mesh.context, mesh.tensor, devices, slices):
            problems.append(f"phases.{phase.name}.mesh: {problem}")
            continue
        data = devices // (mesh.fsdp * mesh.context * mesh.tensor)
        rows, shards = phase.rows_per_step // phase.accumulate, data * mesh.fsdp
        if rows % shards:
            near = near_multiples(phase.rows_per_step, shards * phase.accumulate)
            problems.append(
                f"phases.{phase.name}.rows_per_step: {phase.rows_per_step} rows in {phase.accumulate} passes do not divide over data {data} x "
                f"fsdp {mesh.fsdp}: {near} would; or spread rows with mesh.context or mesh.tensor"
            )
    return problems


def first_state(settings: config.Config, parameters: dict[str, jax.Array] | None = None) -> TrainState:
    """The state before the first step of the first phase, on the mesh that is set.

    Args:
      parameters: initial values, of the first phase's architecture. None: random ones.
    """
    phase = settings.phases[0]
    if parameters is None:
        parameters = initialise(settings.model, phase.architecture, settings.run.seed)
    trainable, frozen = split(to_storage(settings.optimizer, parameters), phase.trains)
    return TrainState(trainable, frozen, jax.jit(lambda x: initial_moments(settings.optimizer, x))(trainable))


def next_state(settings: config.Config, state: TrainState, before: config.Phase, after: config.Phase) -> TrainState:
    """Converts the final state of `before` into the initial state of `after` on the mesh that is set.

    A Qwen3 becomes a NEO by the same initialisation as a published checkpoint. The moments of a parameter are kept if both phases train it and
    `after.carry_optimizer` is set; all others start at zero, with a step count of their own.

    Args:
      state: is consumed: its dictionaries are emptied array by array, so that at most one array exists twice at any time. What is not kept is
        released first.
    """
    parameters = state.trainable | state.frozen
    kept = {name: moment for name, moment in state.moments.items() if after.carry_optimizer and trains(name, after.trains)}
    for part in (state.trainable, state.frozen, state.moments):
        part.clear()
    _move(parameters, {name: x.sharding for name, x in abstract(settings.model, before.architecture).items()})
    if before.architecture != after.architecture:
        parameters = neo_from_qwen3(settings.model, parameters, settings.run.seed)
    trainable, frozen = split(to_storage(settings.optimizer, parameters), after.trains)
    del parameters
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(settings, after, jax.sharding.get_mesh()).moments)
    _move(kept, {name: shardings[name] for name in kept})
    new = {name: value for name, value in trainable.items() if name not in kept}
    moments = kept | jax.jit(lambda x: initial_moments(settings.optimizer, x))(new)
    return TrainState(trainable, frozen, {name: moments[name] for name in trainable})


def _move(arrays: dict[str, Any], shardings: Mapping[str, Any]) -> None:
    """Moves each array (or tuple of arrays) of a dictionary to its sharding, one at a time: the old array is released before the next one moves."""
    for name in list(arrays):
        arrays[name] = jax.block_until_ready(jax.device_put(arrays[name], shardings[name]))


def abstract_state(settings: config.Config, phase: config.Phase, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings on `mesh` of a phase's state: what a checkpoint is restored into."""
    memory = "pinned_host" if settings.optimizer.offload else None  # of moments; None: the device's own

    def of_moment(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if x.sharding is None:  # a count of steps
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec, memory_kind=memory))

    with jax.set_mesh(mesh):
        dtype = jnp.dtype(settings.optimizer.parameter_dtype)
        parameters = {
            name: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
            for name, x in abstract(settings.model, phase.architecture).items()
        }
        trainable, frozen = split(cast(Parameters, parameters), phase.trains)
        moments = jax.eval_shape(lambda x: initial_moments(settings.optimizer, x), trainable)
    return TrainState(trainable, frozen, jax.tree.map(of_moment, moments))
