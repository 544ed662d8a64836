"""The record that is stored with the arrays of a checkpoint, and the checksums that detect damage."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.planning.planner import InputState


@dataclasses.dataclass(frozen=True)
class Position:
    """The position of a run.

    Attributes:
      phase: index of the phase in the curriculum.
      phase_step: number of steps taken in this phase.
      step: number of steps taken in the whole run.
      input: state of the input, from which the next rows are read.
    """

    phase: int
    phase_step: int
    step: int
    input: InputState


@dataclasses.dataclass(frozen=True)
class CheckpointRecord:
    """The record that is stored with the arrays of a checkpoint.

    Attributes:
      position: position of the run.
      sources: names of the training sources, in the order of `position.input.positions`.
      tokens, seconds: number of tokens trained on and time taken so far, earlier starts included.
      data: digests of the tokenizer and of every training source, on which the order of the data depends.
      failures: failed samples so far (data_pipelines.failures.Failures.state).
      configuration: the resolved configuration.
      health: losses of the last steps and the bad ones (training.health.Health.state).
      heldout: mean of the held-out losses of all sources if they were measured at this step, and are finite; else None.
    """

    position: Position
    sources: Sequence[str]
    tokens: int
    seconds: float
    data: Mapping[str, str]
    failures: Mapping[str, Any]
    configuration: Mapping[str, Any]
    health: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heldout: float | None = None

    def to_json(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "position"}
        position = {field.name: getattr(self.position, field.name) for field in dataclasses.fields(Position)}
        return json.loads(json.dumps(fields | position | {"input": self.position.input.to_json()}))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CheckpointRecord:
        """Reads what `to_json` wrote. Raises KeyError, TypeError or DataError if it is not such a record."""
        position = Position(values["phase"], values["phase_step"], values["step"], InputState.from_json(values["input"]))
        newer = {name: values[name] for name in ("health", "heldout") if name in values}  # which checkpoints of before do not have
        rest = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name not in ("position", "health", "heldout")}
        return cls(position, **rest, **newer)


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """Returns a uint32 checksum of all arrays, the same on every mesh: the sum of each one's own, times an odd number by its place."""
    total = jnp.uint32(0)
    for place, leaf in enumerate(jax.tree.leaves(tree)):
        total = total + array_checksum(leaf) * jnp.uint32(leaf_weight(place))
    return total


@jax.jit
def array_checksum(x: jax.Array) -> jax.Array:
    """Returns a uint32 checksum of an array, the same on every mesh: the sum of each element's bits times an odd number made from its index."""
    x = jax.device_put(x, jax.memory.Space.Device)  # moments may be kept in the host's memory
    bits = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]).astype(jnp.uint32)
    for axis in range(bits.ndim):
        weights = (2 * jax.lax.broadcasted_iota(jnp.uint32, (bits.shape[axis],), 0) + 1) * jnp.uint32(2654435761)
        bits = (bits * (weights | 1).reshape([-1 if a == axis else 1 for a in range(bits.ndim)])).astype(jnp.uint32)
    return bits.sum(dtype=jnp.uint32)


def leaf_weight(place: int) -> int:
    """Returns the number by which the checksum of a tree's array is multiplied."""
    return 2 * place + 1


def record_checksum(record: Mapping[str, Any]) -> int:
    """Returns the CRC-32 of a record's canonical JSON."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def describe(tree: Any) -> dict[str, str]:
    """Returns type and shape of every array, such as "float32[4,2]", by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{x.dtype}[{','.join(map(str, x.shape))}]" for path, x in leaves}
