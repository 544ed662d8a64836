"""Reads a checkpoint: its record, and all or some parts of its arrays, verified.

A file system that fails and a checkpoint that is damaged are told apart: only the latter is proven by a checksum, a format or a missing file.
"""

from __future__ import annotations

import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from data_pipelines.schema import DataError
from neo_jax.processes import exchange
from neo_jax.runs.record import CheckpointRecord, array_checksum, checksum, leaf_weight, record_checksum

READ_ATTEMPTS = 3  # if the file system fails
RETRY_SECONDS = 5.0  # before the second attempt; twice as long before the third
READ_BYTES = 16 << 20  # read at a time when files are tested
MAX_NAMED = 5  # differing arrays that a message names
FORMAT_ERRORS = (ValueError, KeyError, OSError, TypeError)  # raised by Orbax if files are damaged or missing

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """Checkpoints of a run directory cannot be written or read; the message says which and why."""


class DamagedError(Exception):
    """A checkpoint that is proven damaged."""


def read_record(folder: pathlib.Path) -> tuple[CheckpointRecord, dict[str, Any]]:
    """Returns the record of the checkpoint `folder`, whose name is its step, as process 0 reads it.

    Also returns the checksums of its parts ("checksums") and the descriptions of its arrays ("arrays", record.describe).

    Raises, in every process:
      CheckpointError: it cannot be read, was saved by another version, or holds another step than its folder's name says.
      DamagedError: it is proven damaged.
    """
    values = _agree(lambda: _read_values(folder) if exchange.is_first() else None)
    sums = {key: values.pop(key) for key in ("checksums", "arrays")}
    return CheckpointRecord.from_json(values), sums


def _read_values(folder: pathlib.Path) -> dict[str, Any]:
    values = dict(read(folder, lambda: ocp.checkpointables_metadata(folder).custom_metadata))
    if "checksum" in values:
        raise CheckpointError(
            f"{folder} was saved by an older version of neo_jax: continue with that version, or set run.directory to a new folder"
        )
    sums = {key: values.pop(key, None) for key in ("checksums", "record_checksum")}
    if not isinstance(sums["checksums"], Mapping) or record_checksum(values) != sums["record_checksum"]:
        raise DamagedError("its record's checksum differs")
    try:
        record = CheckpointRecord.from_json({key: value for key, value in values.items() if key != "arrays"})
        values["arrays"]
    except (KeyError, TypeError, DataError) as error:  # undamaged, but with other fields than this version writes
        raise CheckpointError(
            f"{folder} was saved by another version of neo_jax ({type(error).__name__}: {error}): continue with that version, or set "
            "run.directory to a new folder"
        ) from error
    if str(record.position.step) != folder.name:
        raise CheckpointError(
            f"{folder} holds the state after step {record.position.step}: the folder was renamed. Rename it back, or move it away"
        )
    return values | {"checksums": sums["checksums"]}


def read_arrays(folder: pathlib.Path, wanted: Mapping[str, Any], checksums: Mapping[str, int]) -> dict[str, Any]:
    """Reads parts of the state of the checkpoint `folder` and verifies them.

    Args:
      wanted: pytrees of ShapeDtypeStruct with the shardings that the arrays are to have, by part; parts that are left out are not read.
      checksums: of all parts (read_record).

    Raises, in every process:
      CheckpointError: the files cannot be read.
      DamagedError: they are proven damaged.
    """
    state = _load(folder, wanted, partial=wanted.keys() != checksums.keys())
    for part, arrays in state.items():
        if int(checksum(arrays)) != checksums.get(part):
            raise DamagedError(f"the checksum of its {part} differs")
    return state


def read_one_by_one(
    folder: pathlib.Path, wanted: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]], checksums: Mapping[str, int]
) -> Iterator[tuple[str, jax.Array]]:
    """Yields the arrays of parts whose arrays have names, so that memory need hold but one of them. Arguments and errors as `read_arrays`.

    A part is verified when its last array was yielded: what was made of damaged ones must be thrown away.
    """
    for part, shapes in wanted.items():
        total = 0
        for place, name in enumerate(sorted(shapes)):
            array = _load(folder, {part: {name: shapes[name]}}, partial=True)[part][name]
            total += int(array_checksum(array)) * leaf_weight(place)
            yield name, array
        if total % 2**32 != checksums.get(part):
            raise DamagedError(f"the checksum of its {part} differs")


def _load(folder: pathlib.Path, wanted: Mapping[str, Any], partial: bool) -> dict[str, Any]:
    # Each process reads without Orbax's barrier, in which the others would wait twenty minutes if one fails.
    process = jax.process_index()
    context = ocp.Context()
    context.multiprocessing.primary_host = process
    context.multiprocessing.active_processes = {process}
    context.multiprocessing.barrier_sync_key_prefix = f"process{process}"
    context.pytree.loading.partial_load = partial
    states: list[dict[str, Any]] = []

    def load() -> None:
        with context:
            states.append(ocp.load_checkpointables(folder, {"state": wanted})["state"])

    _agree(lambda: read(folder, load))
    return states[-1]


def read[Result](folder: pathlib.Path, read: Callable[[], Result]) -> Result:
    """Calls `read` and returns its result; repeats the call if the file system may have caused an error.

    Args:
      folder: the checkpoint that `read` reads.

    Raises:
      CheckpointError: the files of the checkpoint cannot be read.
      DamagedError: the files can be read, but are not a valid checkpoint.
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
            raise DamagedError(reason)
        if problem is not None and attempt < READ_ATTEMPTS - 1:
            log.warning("checkpoint %s: the file system fails (%s); trying again", folder, problem)
            time.sleep(RETRY_SECONDS * 2**attempt)
    if problem is None:
        raise DamagedError(reason)
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


def check_arrays(folder: pathlib.Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
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

    The result must be JSON or None. A CheckpointError of any process takes precedence over a DamagedError.
    """
    result, damaged, failed = None, None, None
    try:
        result = work()
    except DamagedError as error:
        damaged = str(error)
    except CheckpointError as error:
        failed = str(error)
    if problem := first_problem(failed):
        raise CheckpointError(problem)
    if problem := first_problem(damaged):
        raise DamagedError(problem)
    return exchange.from_first(result)


def first_problem(mine: str | None) -> str | None:
    """Returns, in every process, the problem of the lowest-numbered process that has one; None if none has."""
    problems = exchange.gather(mine)
    named = (f"process {process}: {problem}" if len(problems) > 1 else problem for process, problem in enumerate(problems) if problem)
    return next(named, None)
