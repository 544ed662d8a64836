"""What a checkpoint says beside its arrays, and the checksums by which damage is noticed."""

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
    """Where a run stands: after `phase_step` steps of phase number `phase`, `step` steps in all; `input` is where the rows go on."""

    phase: int
    phase_step: int
    step: int
    input: InputState


@dataclasses.dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint says beside its arrays.

    Attributes:
      position: where the run stands.
      sources: names of the training sources, in the order of `position.input.positions`.
      tokens, seconds: trained on so far, and taken so far, earlier starts included.
      data: digests of the tokenizer and of every training source: what the order of the data follows from.
      failures: of samples so far (data_pipelines.failures.Failures.state).
      configuration: resolved.
    """

    position: Position
    sources: Sequence[str]
    tokens: int
    seconds: float
    data: Mapping[str, str]
    failures: Mapping[str, Any]
    configuration: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "position"}
        position = {field.name: getattr(self.position, field.name) for field in dataclasses.fields(Position)}
        return json.loads(json.dumps(fields | position | {"input": self.position.input.to_json()}))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CheckpointRecord:
        """Raises KeyError, TypeError or DataError where it is not such a record."""
        position = Position(values["phase"], values["phase_step"], values["step"], InputState.from_json(values["input"]))
        rest = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name != "position"}
        return cls(position, **rest)


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """A uint32 over the bits of all arrays, the same on every mesh: each element's bits times an odd number from its place, summed."""
    total = jnp.uint32(0)
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        leaf = jax.device_put(leaf, jax.memory.Space.Device)  # moments may be kept in the host's memory
        bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]).astype(jnp.uint32)
        for axis in range(bits.ndim):
            weights = (2 * jax.lax.broadcasted_iota(jnp.uint32, (bits.shape[axis],), 0) + 1) * jnp.uint32(2654435761)
            bits = (bits * (weights | 1).reshape([-1 if a == axis else 1 for a in range(bits.ndim)])).astype(jnp.uint32)
        total = total + bits.sum(dtype=jnp.uint32) * jnp.uint32(2 * i + 1)
    return total


def record_checksum(record: Mapping[str, Any]) -> int:
    """A CRC-32 over a record's canonical JSON."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def describe(tree: Any) -> dict[str, str]:
    """Type and shape of every array by its place in the tree, such as "float32[4,2]"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{x.dtype}[{','.join(map(str, x.shape))}]" for path, x in leaves}
