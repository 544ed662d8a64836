"""Finds the checkpoint of a run that a place names: RUN (the newest), RUN:STEP, RUN:PHASE (the last of a phase), RUN:best (by held-out loss)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from neo_jax.runs.reading import CheckpointError, DamagedError, read_record
from neo_jax.runs.record import CheckpointRecord

BEST = "best"  # a phase of this name comes first


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint of a run.

    Attributes:
      run: the run directory.
      folder: the checkpoint's folder.
      record: its record.
      checksums, arrays: checksums of its parts, and descriptions of its arrays (runs.reading.read_record).
    """

    run: pathlib.Path
    folder: pathlib.Path
    record: CheckpointRecord
    checksums: Mapping[str, int]
    arrays: Mapping[str, str]

    @property
    def phase(self) -> str:
        """The name of the phase that it was saved in."""
        return self.record.configuration["curriculum"][self.record.position.phase]


def split_place(place: str) -> tuple[pathlib.Path, str]:
    """Returns the folder of a place and what stands after its colon, "" without one. A folder whose own name has the colon is taken as it is."""
    folder, colon, which = place.rpartition(":")
    if not colon or pathlib.Path(place).exists():
        return pathlib.Path(place), ""
    return pathlib.Path(folder), which


def is_run(folder: pathlib.Path) -> bool:
    """Returns whether a folder is a run directory."""
    return (folder / "checkpoints").is_dir()


def find(place: str) -> Found:
    """Reads the record of the checkpoint that a place names. Nothing in the run directory is changed, so the run may be training.

    Raises:
      CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    run, which = split_place(place)
    run = run.absolute()  # Orbax opens no relative path
    steps = sorted((int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()), reverse=True)
    if not steps:
        raise CheckpointError(f"{run} holds no checkpoint yet: its first one is written after run.checkpoint_every steps")
    if not which:
        return _read(run, steps[0])
    if which.isdigit():
        if int(which) not in steps:
            raise CheckpointError(f"{run} has no checkpoint of step {which}; it keeps those of {', '.join(map(str, sorted(steps)))}")
        return _read(run, int(which))
    every: list[Found] = []
    for step in steps:
        found = _read(run, step)
        if found.phase == which:
            return found
        every.append(found)
    if which == BEST:
        return _best(run, every)
    phases = [found.phase for found in every]
    kept = ", ".join(dict.fromkeys(reversed(phases)))
    raise CheckpointError(f"{run} has no checkpoint of a phase {which!r}; it has some of {kept}")


def _best(run: pathlib.Path, every: Sequence[Found]) -> Found:
    measured = [((-found.record.position.phase, found.record.heldout), found) for found in every if found.record.heldout is not None]
    if not measured:
        raise CheckpointError(f"{run} has no checkpoint of a step that measured held-out losses: name a step, or set run.heldout_every")
    return min(measured, key=lambda each: each[0])[1]


def _read(run: pathlib.Path, step: int) -> Found:
    folder = run / "checkpoints" / str(step)
    try:
        record, sums = read_record(folder)
    except DamagedError as error:
        raise CheckpointError(
            f"{folder} is damaged ({error}): name another step, or start the run again, which continues from the one before"
        ) from None
    return Found(run, folder, record, sums["checksums"], sums["arrays"])
