"""Checkpoints: parameters, optimizer state and the record of a run's position; written asynchronously and atomically, verified when read.

A checksum of each part of the state (trained and frozen parameters, moments), computed on the devices and independent of the mesh, is stored with
each checkpoint: Orbax itself does not detect a flipped bit, and parameters can be verified without reading the moments. In a run of several
processes each writes and reads the arrays on its devices; process 0 alone moves folders.

What a start does with a checkpoint that it cannot use: one that is proven damaged (checksum, format, a missing file) is moved aside, and the
previous one is tried. If the cause may lie outside of the checkpoint (permissions, a failing file system, missing checkpoints, arrays of another
model), the start ends with one sentence, and nothing is moved.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from data_pipelines.storage import write_whole
from neo_jax.processes import exchange
from neo_jax.runs.copies import Copies
from neo_jax.runs.full_disk import disk_is_full, drop_closed_loops
from neo_jax.runs.reading import CheckpointError, DamagedError, check_arrays, first_problem, read, read_arrays, read_record
from neo_jax.runs.record import CheckpointRecord, checksum, describe, record_checksum

SAVE_TIMEOUT = 600  # seconds; with Orbax's default, a full disk blocks a run of several processes for twenty minutes
FREE_SPACE = 1.2  # free space that a save needs, as a multiple of the checkpoint's size
MARKER = "last_checkpoint.json"  # beside the folder of checkpoints: the step of the newest complete one


class Checkpoints:
    """The checkpoints of one run, by step."""

    def __init__(
        self,
        directory: pathlib.Path,
        keep: int,
        keep_steps: Collection[int] = (),
        keep_every: int = 0,
        keep_best: int = 0,
        copies: str = "",
    ):
        """Opens or creates `directory`.

        Args:
          keep: number of newest checkpoints that are kept.
          keep_steps: steps whose checkpoints are kept too.
          keep_every: checkpoints of its multiples are kept too; 0: none.
          copies: where complete checkpoints are copied to (runs.copies); "": nowhere.
          keep_best: number of checkpoints of the latest phase with the lowest held-out loss (CheckpointRecord.heldout) that are kept too.

        Raises:
          CheckpointError: checkpoints were written here but none is left, or one cannot be read and is not proven damaged.
        """
        drop_closed_loops()
        self.directory = directory.absolute()
        self._marker = self.directory.parent / MARKER
        if problem := exchange.from_first(self._prepare() if exchange.is_first() else None):
            raise CheckpointError(problem)
        policies = ocp.training.preservation_policies
        context = ocp.Context()
        context.asynchronous.timeout_secs = SAVE_TIMEOUT
        kept = [policies.LatestN(keep), policies.CustomSteps(keep_steps)]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        if keep_best:
            # Losses of two phases are of other rows and sources: those of the latest come first.
            def rank(metrics: Any) -> Any:
                return -metrics["phase"], metrics["heldout"]

            kept.append(policies.BestN(n=keep_best, get_metric_fn=rank, reverse=True, keep_checkpoints_without_metrics=False))
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            context=context,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        self._pending: tuple[int, Any] | None = None
        self._copies = Copies(copies, self.directory.parent)
        self._failed = False  # whether a write failed in this process

    def _prepare(self) -> str | None:
        """Moves damaged checkpoints aside, on which Orbax would fail. Returns a message if checkpoints are missing or unreadable, else None."""
        folders = sorted(folder for folder in self.directory.glob("*") if folder.name.isdigit())
        quarantined = list(self.directory.parent.glob("quarantine-*"))
        if not folders and not quarantined and (step := _last_written(self._marker)) is not None:
            return (
                f"{self.directory} holds no checkpoint, but that of step {step} was written there: is the folder missing or not mounted? Restore "
                f"it; or, to start the run again from the beginning, set run.directory to a new folder"
            )
        for folder in folders:
            try:
                read(folder, functools.partial(ocp.metadata, folder))
            except CheckpointError as error:
                return str(error)
            except DamagedError as error:
                self._quarantine(int(folder.name), str(error))
        return None

    def save(self, state: Mapping[str, Any], record: CheckpointRecord) -> None:
        """Starts writing the checkpoint of the record's step; returns once the arrays are copied. Waits for the previous save first.

        Args:
          state: pytrees of arrays, by the name of the part.

        Raises:
          CheckpointError: the disk of any process has too little free space.
        """
        self.wait()
        need = FREE_SPACE * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        problem = None
        if free < need:
            problem = (
                f"{self.directory}: a checkpoint needs {need / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free; "
                "the last checkpoint is untouched. Free some space and start the same command again"
            )
        if problem := first_problem(problem):
            raise CheckpointError(problem)
        values = record.to_json() | {"arrays": describe(state)}
        sums_of_parts = jax.device_get({part: checksum(arrays) for part, arrays in state.items()})  # together: one wait for the devices
        sums = {"checksums": {part: int(each) for part, each in sums_of_parts.items()}, "record_checksum": record_checksum(values)}
        step = record.position.step
        metrics = None if record.heldout is None else {"phase": record.position.phase, "heldout": record.heldout}
        if exchange.is_first():
            self._copies.start(step)
        with self._writing(step):
            self._pending = step, self._checkpointer.save_async(step, state, overwrite=True, metrics=metrics, custom_metadata=values | sums)

    def wait(self) -> None:
        """Waits until the checkpoint being written is on disk. Raises any error of the write, CheckpointError if the disk is full."""
        if self._pending is not None:
            step, response = self._pending
            self._pending = None
            with self._writing(step):
                response.result()
            if exchange.is_first():
                write_whole(self._marker, json.dumps({"step": step}) + "\n")

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failed = True
            if not disk_is_full(error):
                raise
            raise CheckpointError(
                f"{self.directory}: the checkpoint of step {step} cannot be written: No space left on device. The one before is untouched, and "
                "what was written of this one is removed by the next start. Free some space and start the same command again"
            ) from error

    def steps(self) -> list[int]:
        """Returns the steps with a complete checkpoint, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def restore(self, template: Callable[[CheckpointRecord], Any]) -> tuple[Any, CheckpointRecord] | None:
        """Reads the newest undamaged checkpoint.

        A damaged one is renamed to quarantine-STEP, with a warning, and the next older one is tried.

        Args:
          template: given the record of a checkpoint, returns a pytree of ShapeDtypeStruct with the shardings that its arrays are to have.

        Returns:
          (state, record), or None if there is no checkpoint.

        Raises:
          CheckpointError: all checkpoints are damaged; the file system fails; a checkpoint's arrays are not those that the configuration
            describes; or a checkpoint holds another step than its folder's name says.
        """
        for step in reversed(exchange.from_first(self.steps())):
            try:
                folder = self.directory / str(step)
                record, sums = read_record(folder)
                wanted = template(record)
                check_arrays(folder, sums["arrays"], describe(wanted))
                return read_arrays(folder, wanted, sums["checksums"]), record
            except DamagedError as error:
                if exchange.is_first():
                    self._quarantine(step, str(error))
                exchange.barrier()
                self._checkpointer.reload()
        if damaged := sorted(path.name for path in self.directory.parent.glob("quarantine-*")):
            raise CheckpointError(
                f"{self.directory}: no checkpoint can be read; the damaged ones are kept beside it as {', '.join(damaged)}. "
                "Repair one and move it back, or delete them to start the run again from the beginning"
            )
        return None

    def _quarantine(self, step: int, reason: str) -> None:
        target = self.directory.parent / f"quarantine-{step}"
        logging.warning("checkpoint %d cannot be read (%s): moved to %s, trying an older one", step, reason, target)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(self.directory / str(step), target)

    def close(self) -> None:
        """Waits for the checkpoint being written. After a failed one, in which the other processes wait for this one, returns at once."""
        if self._failed:
            return
        self.wait()
        self._checkpointer.close()
        self._copies.close()


def _last_written(marker: pathlib.Path) -> int | None:
    try:
        return json.loads(marker.read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
