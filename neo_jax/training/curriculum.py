"""Transitions between phases: converts parameters, optimizer state and mesh from one phase to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from neo_jax import config
from neo_jax.config.fields import near_multiples
from neo_jax.model.backbone import Parameters, abstract, initialise
from neo_jax.model.freezing import split, trains
from neo_jax.model.initialise import neo_from_qwen3
from neo_jax.sharding import make_mesh, mesh_problem, overlap_problem, owners_of
from neo_jax.training.optimizer import initial_moments, to_storage
from neo_jax.training.rates import pattern_problems
from neo_jax.training.step import TrainState


def phase_mesh(phase: config.Phase, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of a phase over these devices, by default all of the run. Raises ValueError if its sizes do not fit them."""
    mesh = phase.mesh
    return make_mesh(mesh.data, mesh.fsdp, mesh.context, mesh.tensor, devices=devices)


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
                f"fsdp {mesh.fsdp}: {near} would; or divide each row over devices with mesh.context or mesh.tensor"
            )
    return problems


def phase_problems(settings: config.Config, devices: int, slices: int = 1) -> list[str]:
    """Returns a sentence for everything in phases that needs the devices or the parameters' names to be checked: meshes, rows, patterns."""
    return [*mesh_problems(settings, devices, slices), *pattern_problems(settings)]


def overlap_problems(settings: config.Config) -> list[str]:
    """Returns a sentence for each phase on whose mesh the devices of this run's processes hold rows that overlap but differ."""
    found = {phase.name: overlap_problem(owners_of(phase_mesh(phase))) for phase in settings.phases}
    return [f"phases.{name}.mesh: {problem}" for name, problem in found.items() if problem]


def first_state(settings: config.Config, parameters: dict[str, jax.Array] | None = None) -> TrainState:
    """Returns the state before the first step of the first phase, on the current mesh.

    Args:
      parameters: initial values, of the first phase's architecture. None: random ones.
    """
    phase = settings.phases[0]
    if parameters is None:
        parameters = initialise(settings.model, phase.architecture, settings.run.seed)
    trainable, frozen = split(to_storage(settings.optimizer, parameters), phase.trains)
    moments = jax.jit(lambda x: initial_moments(settings.optimizer, x))(trainable)
    return TrainState(trainable, frozen, moments, first_average(settings.optimizer, trainable))


def next_state(settings: config.Config, state: TrainState, before: config.Phase, after: config.Phase) -> TrainState:
    """Converts the final state of `before` into the initial state of `after` on the current mesh.

    A Qwen3 becomes a NEO by the same initialisation as a downloaded checkpoint. A parameter keeps its moments if both phases train it and `after`
    has carry_optimizer; all other moments start at zero, with a step count of zero. It keeps its average if both phases train it.

    Args:
      state: consumed. Moments that are not carried over are released first; then arrays move one by one and the old copy of each is released at
        once, so that at most one array exists twice.
    """
    parameters = state.trainable | state.frozen
    carried = {name: moment for name, moment in state.moments.items() if after.carry_optimizer and trains(name, after.trains)}
    averages = {name: value for name, value in state.average.items() if settings.optimizer.average and trains(name, after.trains)}
    for part in (state.trainable, state.frozen, state.moments, state.average):
        part.clear()
    _move(parameters, {name: x.sharding for name, x in abstract(settings.model, before.architecture).items()})
    if before.architecture != after.architecture:
        parameters = neo_from_qwen3(settings.model, parameters, settings.run.seed)
    trainable, frozen = split(to_storage(settings.optimizer, parameters), after.trains)
    del parameters
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(settings, after, jax.sharding.get_mesh()))
    _move(carried, {name: shardings.moments[name] for name in carried})
    _move(averages, {name: shardings.average[name] for name in averages})
    new = {name: value for name, value in trainable.items() if name not in carried}
    moments = carried | jax.jit(lambda x: initial_moments(settings.optimizer, x))(new)
    begun = first_average(settings.optimizer, {name: value for name, value in trainable.items() if name not in averages})
    average = averages | begun
    return TrainState(
        trainable, frozen, {name: moments[name] for name in trainable}, {name: average[name] for name in trainable if average}
    )


def first_average(optimizer: config.Optimizer, trainable: Parameters) -> Parameters:
    """Returns the averages with which parameters begin: copies in float32; empty without optimizer.average."""
    return {name: jnp.array(value, jnp.float32) for name, value in trainable.items()} if optimizer.average else {}


def _move(arrays: dict[str, Any], shardings: Mapping[str, Any]) -> None:
    """Reshards each array (or tuple of arrays) of a dictionary in place, one by one: the old copy is released before the next is moved."""
    for name in list(arrays):
        arrays[name] = jax.block_until_ready(jax.device_put(arrays[name], shardings[name]))


def abstract_state(settings: config.Config, phase: config.Phase, mesh: Mesh) -> TrainState:
    """Returns shapes, types and shardings of a phase's state on `mesh`. Checkpoints are restored into it."""
    memory_kind = "pinned_host" if settings.optimizer.offload else None  # of moments; None: device memory

    def abstract_moment(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if x.sharding is None:  # the step count, a scalar
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec, memory_kind=memory_kind))

    with jax.set_mesh(mesh):
        dtype = jnp.dtype(settings.optimizer.parameter_dtype)
        parameters = {
            name: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
            for name, x in abstract(settings.model, phase.architecture).items()
        }
        trainable, frozen = split(parameters, phase.trains)
        moments = jax.eval_shape(lambda x: initial_moments(settings.optimizer, x), cast(Parameters, trainable))
    average = {name: x.update(dtype=jnp.float32) for name, x in trainable.items()} if settings.optimizer.average else {}
    arrays = [cast(Parameters, each) for each in (trainable, frozen, average)]
    return TrainState(arrays[0], arrays[1], jax.tree.map(abstract_moment, moments), arrays[2])
