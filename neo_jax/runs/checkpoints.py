"""Checkpoints: parameters, optimizer and a JSON record of where the run stands; asynchronous, atomic, verified when read.

The one module that knows Orbax. A checksum of all arrays, computed on the devices and independent of the mesh, is stored beside each step:
Orbax itself loads a flipped bit without a word. In a run of several processes all of them write and read, each what its devices hold; process 0
moves folders.
"""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from neo_jax.processes import exchange

SAVE_TIMEOUT = 600  # seconds; Orbax's own default would let a full disk hang several processes for twenty minutes
FREE_SPACE = 1.2  # times the size of a checkpoint that must be free before one is written
UNREADABLE = (ValueError, KeyError, OSError, TypeError)  # what Orbax raises where files are damaged or missing


class CheckpointError(RuntimeError):
    """A run directory whose checkpoints cannot be written or read; the message says which and why."""


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


def record_checksum(record: dict[str, Any]) -> int:
    """A CRC-32 over a record's canonical JSON."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


class Checkpoints:
    """The checkpoints of one run, by step."""

    def __init__(self, directory: pathlib.Path, keep: int):
        """Opens or creates `directory`; keeps the `keep` newest checkpoints."""
        self.directory = directory.absolute()
        for folder in sorted(self.directory.glob("*")) if exchange.is_first() else ():
            if folder.name.isdigit():
                try:
                    ocp.metadata(folder)
                except UNREADABLE as error:  # one such folder would keep Orbax from opening any
                    self._quarantine(int(folder.name), f"{type(error).__name__}: {error}")
        exchange.barrier()
        context = ocp.Context()
        context.asynchronous.timeout_secs = SAVE_TIMEOUT
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            context=context,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        self._pending: Any = None

    def save(self, step: int, state: Any, record: dict[str, Any]) -> None:
        """Starts writing a checkpoint; returns when the arrays are copied. The one before it is awaited first.

        Args:
          state: a pytree of arrays.
          record: JSON that describes it: phase, input state, configuration.

        Raises:
          CheckpointError: the disk has too little room, for any process.
        """
        self.wait()
        need = FREE_SPACE * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        verdict = None
        if free < need:
            verdict = (
                f"{self.directory}: a checkpoint needs {need / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free; "
                "the last checkpoint is untouched. Make room and start the same command again"
            )
        if problem := _first_problem(verdict):
            raise CheckpointError(problem)
        sums = {"checksum": int(checksum(state)), "record_checksum": record_checksum(record)}
        self._pending = self._checkpointer.save_async(step, state, overwrite=True, custom_metadata=record | sums)

    def wait(self) -> None:
        """Returns when the checkpoint under way is on disk; raises what its writing raised."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def restore(self, template: Callable[[dict[str, Any]], Any]) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint that reads back as it was written.

        One that does not is renamed to quarantine-STEP, with a warning, and the next older one is tried.

        Args:
          template: from a checkpoint's record to the pytree of ShapeDtypeStruct with shardings that its arrays shall have.

        Returns:
          (step, state, record), or None where there is no checkpoint.

        Raises:
          CheckpointError: there are or were checkpoints, and none can be read.
        """
        for step in reversed(exchange.from_first(self.steps())):
            record, sums, reason = exchange.from_first(self._read_record(step) if exchange.is_first() else None)
            if reason is None:
                state, reason = self._read_arrays(step, template, record, sums[0])
                if reason is None:
                    return step, state, record
            if exchange.is_first():
                self._quarantine(step, reason)
            exchange.barrier()
            self._checkpointer.reload()
        if damaged := sorted(path.name for path in self.directory.parent.glob("quarantine-*")):
            raise CheckpointError(
                f"{self.directory}: no checkpoint can be read; the damaged ones are kept beside it as {', '.join(damaged)}. "
                "Repair one and move it back, or delete them to begin the run anew"
            )
        return None

    def _read_record(self, step: int) -> tuple[dict[str, Any], list[int], str | None]:
        """(record, checksums of the arrays and of the record, what is wrong with it)."""
        try:
            record = dict(self._checkpointer.metadata(step).custom_metadata)
            sums = [record.pop("checksum"), record.pop("record_checksum")]
        except UNREADABLE as error:
            return {}, [], _reason(error)
        return record, sums, None if record_checksum(record) == sums[1] else "its record's checksum differs"

    def _read_arrays(
        self, step: int, template: Callable[[dict[str, Any]], Any], record: dict[str, Any], expected: int
    ) -> tuple[Any, str | None]:
        """(state, what is wrong with it), the same verdict in every process."""
        state, reason = None, None
        # Each process reads for itself: in Orbax's barrier the others would wait twenty minutes for one that fails.
        process = jax.process_index()
        context = ocp.Context()
        context.multiprocessing.primary_host = process
        context.multiprocessing.active_processes = {process}
        context.multiprocessing.barrier_sync_key_prefix = f"process{process}"
        try:
            with context:
                state = ocp.load_checkpointables(self.directory / str(step), {"state": template(record)})["state"]
        except UNREADABLE as error:
            reason = _reason(error)
        if reason := _first_problem(reason):
            return None, reason
        return (state, None) if int(checksum(state)) == expected else (None, "its checksum differs")

    def _quarantine(self, step: int, reason: str) -> None:
        target = self.directory.parent / f"quarantine-{step}"
        logging.warning("checkpoint %d cannot be read (%s): moved to %s, trying an older one", step, reason, target)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(self.directory / str(step), target)

    def close(self) -> None:
        self.wait()
        self._checkpointer.close()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error.__context__ or error}"


def _first_problem(mine: str | None) -> str | None:
    """The first process's problem that has one, in every process."""
    problems = exchange.gather(mine)
    named = (f"process {process}: {problem}" if len(problems) > 1 else problem for process, problem in enumerate(problems) if problem)
    return next(named, None)
