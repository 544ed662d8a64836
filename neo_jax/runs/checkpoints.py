"""Checkpoints: parameters, optimizer state and the record of a run's position; written asynchronously and atomically, verified when read.

The only module that uses Orbax. A checksum of all arrays, computed on the devices and independent of the mesh, is stored with each checkpoint:
Orbax itself does not detect a flipped bit. In a run of several processes each writes and reads the arrays on its devices; process 0 alone moves
folders.

What a start does with a checkpoint that it cannot use: one that is proven damaged (checksum, format, a missing file) is moved aside, and the
previous one is tried. If the cause may lie outside of the checkpoint (permissions, a failing file system, missing checkpoints, arrays of another
model), the start ends with one sentence, and nothing is moved.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from data_pipelines.schema import DataError
from data_pipelines.storage import write_whole
from neo_jax.processes import exchange
from neo_jax.runs.record import CheckpointRecord, checksum, describe, record_checksum

SAVE_TIMEOUT = 600  # seconds; with Orbax's default, a full disk blocks a run of several processes for twenty minutes
FREE_SPACE = 1.2  # free space that a save needs, as a multiple of the checkpoint's size
READ_ATTEMPTS = 3  # if the file system fails
RETRY_SECONDS = 5.0  # before the second attempt; twice as long before the third
READ_BYTES = 16 << 20  # read at a time when files are tested
MAX_NAMED = 5  # differing arrays that a message names
MARKER = "last_checkpoint.json"  # beside the folder of checkpoints: the step of the newest complete one
FORMAT_ERRORS = (ValueError, KeyError, OSError, TypeError)  # raised by Orbax if files are damaged or missing

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """Checkpoints of a run directory cannot be written or read; the message says which and why."""


class _DamagedError(Exception):
    """A checkpoint that is proven damaged."""


class Checkpoints:
    """The checkpoints of one run, by step."""

    def __init__(self, directory: pathlib.Path, keep: int):
        """Opens or creates `directory`; keeps the `keep` newest checkpoints.

        Raises:
          CheckpointError: checkpoints were written here but none is left, or one cannot be read and is not proven damaged.
        """
        self.directory = directory.absolute()
        self._marker = self.directory.parent / MARKER
        if problem := exchange.from_first(self._prepare() if exchange.is_first() else None):
            raise CheckpointError(problem)
        context = ocp.Context()
        context.asynchronous.timeout_secs = SAVE_TIMEOUT
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            context=context,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        self._pending: tuple[int, Any] | None = None

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
                _read(folder, functools.partial(ocp.metadata, folder))
            except CheckpointError as error:
                return str(error)
            except _DamagedError as error:
                self._quarantine(int(folder.name), str(error))
        return None

    def save(self, state: Any, record: CheckpointRecord) -> None:
        """Starts writing the checkpoint of the record's step; returns once the arrays are copied. Waits for the previous save first.

        Args:
          state: a pytree of arrays.

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
        if problem := _first_problem(problem):
            raise CheckpointError(problem)
        values = record.to_json() | {"arrays": describe(state)}
        sums = {"checksum": int(checksum(state)), "record_checksum": record_checksum(values)}
        step = record.position.step
        self._pending = step, self._checkpointer.save_async(step, state, overwrite=True, custom_metadata=values | sums)

    def wait(self) -> None:
        """Waits until the checkpoint being written is on disk. Raises any error of the write."""
        if self._pending is not None:
            step, response = self._pending
            self._pending = None
            response.result()
            if exchange.is_first():
                write_whole(self._marker, json.dumps({"step": step}) + "\n")

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
                record, sums = self._read_record(step)
                wanted = template(record)
                _check_arrays(self.directory / str(step), sums["arrays"], describe(wanted))
                return self._read_arrays(step, wanted, sums["checksum"]), record
            except _DamagedError as error:
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

    def _read_record(self, step: int) -> tuple[CheckpointRecord, dict[str, Any]]:
        """Returns the record of a step as process 0 reads it, and checksum ("checksum") and descriptions ("arrays") of its arrays."""
        values = _agree(lambda: self._read_values(step) if exchange.is_first() else None)
        sums = {key: values.pop(key) for key in ("checksum", "arrays")}
        return CheckpointRecord.from_json(values), sums

    def _read_values(self, step: int) -> dict[str, Any]:
        folder = self.directory / str(step)
        values = dict(_read(folder, lambda: self._checkpointer.metadata(step).custom_metadata))
        sums = {key: values.pop(key, None) for key in ("checksum", "record_checksum")}
        if None in sums.values() or record_checksum(values) != sums["record_checksum"]:
            raise _DamagedError("its record's checksum differs")
        try:
            record = CheckpointRecord.from_json({key: value for key, value in values.items() if key != "arrays"})
            values["arrays"]
        except (KeyError, TypeError, DataError) as error:  # undamaged, but with other fields than this version writes
            raise CheckpointError(
                f"{folder} was saved by another version of neo_jax ({type(error).__name__}: {error}): continue with that version, or set "
                "run.directory to a new folder"
            ) from error
        if record.position.step != step:
            raise CheckpointError(
                f"{folder} holds the state after step {record.position.step}: the folder was renamed. Rename it back, or move it away"
            )
        return values | {"checksum": sums["checksum"]}

    def _read_arrays(self, step: int, wanted: Any, expected: int) -> Any:
        # Each process reads without Orbax's barrier, in which the others would wait twenty minutes if one fails.
        process = jax.process_index()
        context = ocp.Context()
        context.multiprocessing.primary_host = process
        context.multiprocessing.active_processes = {process}
        context.multiprocessing.barrier_sync_key_prefix = f"process{process}"
        folder = self.directory / str(step)
        states: list[Any] = []

        def load() -> None:
            with context:
                states.append(ocp.load_checkpointables(folder, {"state": wanted})["state"])

        _agree(lambda: _read(folder, load))
        if int(checksum(states[-1])) != expected:
            raise _DamagedError("its checksum differs")
        return states[-1]

    def _quarantine(self, step: int, reason: str) -> None:
        target = self.directory.parent / f"quarantine-{step}"
        logging.warning("checkpoint %d cannot be read (%s): moved to %s, trying an older one", step, reason, target)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(self.directory / str(step), target)

    def close(self) -> None:
        self.wait()
        self._checkpointer.close()


def _last_written(marker: pathlib.Path) -> int | None:
    try:
        return json.loads(marker.read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read[Result](folder: pathlib.Path, read: Callable[[], Result]) -> Result:
    """Calls `read` and returns its result; repeats the call if the file system may have caused an error.

    Args:
      folder: the checkpoint that `read` reads.

    Raises:
      CheckpointError: the files of the checkpoint cannot be read.
      _DamagedError: the files can be read, but are not a valid checkpoint.
    """
    problem = None
    for attempt in range(READ_ATTEMPTS):
        try:
            return read()
        except FORMAT_ERRORS as error:
            reason = f"{type(error).__name__}: {error.__context__ or error}"
        problem = file_problem(folder)
        if isinstance(problem, PermissionError):
            break
        if problem is None and attempt > 0:
            raise _DamagedError(reason)
        if problem is not None and attempt < READ_ATTEMPTS - 1:
            log.warning("checkpoint %s: the file system fails (%s); trying again", folder, problem)
            time.sleep(RETRY_SECONDS * 2**attempt)
    if problem is None:
        raise _DamagedError(reason)
    raise CheckpointError(
        f"checkpoint {folder} cannot be read ({problem}): nothing was moved or started again. Check the permissions and the file system, then "
        "start the same command again"
    )


def file_problem(folder: pathlib.Path) -> OSError | None:
    """Reads all files of a folder; returns the first file system error, or None if all can be read, whatever their content."""

    def fail(error: OSError) -> None:
        raise error

    try:
        for place, _, names in os.walk(folder, onerror=fail):
            for name in names:
                with open(os.path.join(place, name), "rb", buffering=0) as file:
                    while file.read(READ_BYTES):
                        pass
    except FileNotFoundError:
        return None  # a missing file counts as damage, not as a failing file system
    except OSError as error:
        return error
    return None


def _check_arrays(folder: pathlib.Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises CheckpointError if the arrays of a checkpoint are not those that the configuration describes."""
    differing = [
        f"{name} is {found.get(name, 'missing')}, wanted {wanted.get(name, 'none')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        more = f" and {len(differing) - MAX_NAMED} more" if len(differing) > MAX_NAMED else ""
        raise CheckpointError(
            f"{folder} holds other arrays than this configuration trains: {'; '.join(differing[:MAX_NAMED])}{more}. Use the configuration that it "
            "was saved with, or set run.directory to a new folder"
        )


def _agree(work: Callable[[], Any]) -> Any:
    """Calls `work` in every process; returns process 0's result, or raises the error of the first process that failed, in all processes.

    The result must be JSON or None. A CheckpointError of any process takes precedence over a _DamagedError.
    """
    result, damaged, failed = None, None, None
    try:
        result = work()
    except _DamagedError as error:
        damaged = str(error)
    except CheckpointError as error:
        failed = str(error)
    if problem := _first_problem(failed):
        raise CheckpointError(problem)
    if problem := _first_problem(damaged):
        raise _DamagedError(problem)
    return exchange.from_first(result)


def _first_problem(mine: str | None) -> str | None:
    """Returns, in every process, the problem of the lowest-numbered process that has one; None if none has."""
    problems = exchange.gather(mine)
    named = (f"process {process}: {problem}" if len(problems) > 1 else problem for process, problem in enumerate(problems) if problem)
    return next(named, None)
