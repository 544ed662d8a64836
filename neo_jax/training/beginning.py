"""How a run begins: from random parameters, from a published folder, or from a checkpoint of another run; and the note of where it came from.

A Qwen3, published or trained here, becomes a NEO by the official conversion if the first phase trains a NEO.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax

from data_pipelines.storage import write_whole
from neo_jax import config
from neo_jax.interop.errors import WeightsError
from neo_jax.interop.small_files import INITIAL, keep_small_files
from neo_jax.model.initialise import neo_from_qwen3
from neo_jax.places import AVERAGE, FolderPlace, RunPlace, open_place
from neo_jax.processes import exchange
from neo_jax.runs.directory import RunDirectory, RunDirectoryError
from neo_jax.runs.reading import CheckpointError, DamagedError, check_arrays, read_arrays
from neo_jax.runs.record import CheckpointRecord, describe
from neo_jax.training.continuing import check_changes
from neo_jax.training.curriculum import abstract_state, first_state, next_state, phase_mesh
from neo_jax.training.step import TrainState

# Fields of a model that are not compared: those of the parts that a Qwen3 lacks, and the scale of random parameters.
NEO_ONLY = ("pre_buffer_layers", "patch_channels", "rope_theta_hw", "patch_rope_theta", "mask", "positions", "pre_buffer")
RANDOM_ONLY = ("initializer_range",)
ORIGIN = "origin.json"  # in the folder INITIAL of a run directory
PARAMETERS = ("trainable", "frozen")  # parts of a state


def begin(settings: config.Config) -> TrainState:
    """Returns the state before the first step of a run, on the current mesh, which is that of its first phase.

    Raises:
      WeightsError: `run.initial` names neither a run nor a folder that neo_jax reads, or its model differs from the configuration's.
      CheckpointError: a checkpoint of a run cannot be read.
    """
    if not settings.run.initial:
        return first_state(settings)
    place, phase = open_place(settings.run.initial), settings.phases[0]
    _check_model(settings, place)
    if isinstance(place, RunPlace):
        # As at an edge between two phases: moments are carried over where both phases train a parameter and the first one here carries them.
        state = _state_of(settings, place)
        if place.average:
            state = dataclasses.replace(state, trainable=state.averaged_trainable(), average={})
        return next_state(settings, state, place.phase, phase)
    parameters = place.parameters(settings.optimizer.parameter_dtype)
    if place.architecture != phase.architecture:
        parameters = neo_from_qwen3(settings.model, parameters, settings.run.seed)
    return first_state(settings, parameters)


def _state_of(settings: config.Config, place: RunPlace) -> TrainState:
    """Reads the state of another run's checkpoint onto the current mesh, in the storage types of this run; moments only if this run takes them."""
    wanted = as_tree(abstract_state(place.settings, place.phase, jax.sharding.get_mesh()))
    check_arrays(place.found.folder, place.found.arrays, describe(wanted))
    if settings.run.initial_takes == "parameters":
        wanted = {part: wanted[part] for part in (*PARAMETERS, *(["average"] if place.average else []))}
    try:
        read = read_arrays(place.found.folder, wanted, place.found.checksums)
    except DamagedError as error:
        raise CheckpointError(f"{place.found.folder} is damaged ({error}): let run.initial name another step") from None
    optimizer = settings.optimizer
    moments = {
        name: moment._replace(mu=moment.mu.astype(optimizer.mu_dtype), nu=moment.nu.astype(optimizer.nu_dtype))
        for name, moment in read.get("moments", {}).items()
    }
    return TrainState(read["trainable"], read["frozen"], moments, read.get("average", {}))


def goes_on(settings: config.Config, directory: RunDirectory) -> tuple[dict[str, Any], CheckpointRecord] | None:
    """Reads the checkpoint from which this run goes on as another one would (run.initial_takes "position"); None if it does not.

    Args:
      directory: of this run. Its configuration is compared with the other's as if the other were started again with it.

    Raises:
      WeightsError: `run.initial` does not name a run.
      CheckpointError: its checkpoint cannot be read.
      RunDirectoryError: the configuration differs in what a run cannot change.
    """
    if settings.run.initial_takes != "position":
        return None
    place = open_place(settings.run.initial)
    if not isinstance(place, RunPlace):
        raise WeightsError(
            f'run.initial_takes is "position", which only a checkpoint of a run has, and {settings.run.initial} is a published folder'
        )
    if place.average:
        raise WeightsError(f'run.initial_takes is "position", with which a run goes on from its parameters: leave {AVERAGE} out')
    found = place.found
    directory.go_on_from(found.run, found.record.configuration)
    check_changes(directory, found.record)
    phase = settings.phases[found.record.position.phase]
    wanted = as_tree(abstract_state(settings, phase, phase_mesh(phase)))
    check_arrays(found.folder, found.arrays, describe(wanted))
    try:
        return read_arrays(found.folder, wanted, found.checksums), found.record
    except DamagedError as error:
        raise CheckpointError(f"{found.folder} is damaged ({error}): let run.initial name another step") from None


def as_tree(state: TrainState) -> dict[str, Any]:
    """Returns the parts of a state, as checkpoints name them; without averages if there are none."""
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: part for name, part in parts.items() if part or name != "average"}


def _check_model(settings: config.Config, place: RunPlace | FolderPlace) -> None:
    """Raises WeightsError if the model at a place is not the configuration's, or not of an architecture that its first phase can train."""
    first = settings.phases[0].architecture
    if place.architecture == "neo" and first != "neo":
        raise WeightsError(
            f"run.initial {place.text} is a NEO, and the first phase trains architecture {first!r}: begin with a phase of neo"
        )
    ignored = RANDOM_ONLY + (NEO_ONLY if place.architecture == "qwen3" else ())
    differing = [
        f"model.{field.name} is {getattr(settings.model, field.name)}, the checkpoint has {getattr(place.model, field.name)}"
        for field in dataclasses.fields(config.Model)
        if field.name not in ignored and getattr(settings.model, field.name) != getattr(place.model, field.name)
    ]
    if differing:
        raise WeightsError(
            f"run.initial {place.text} does not fit the configuration: {'; '.join(differing)}; set these to the checkpoint's"
        )


def write_origin(settings: config.Config, directory: pathlib.Path) -> None:
    """Notes in a new run's directory where its parameters come from, and keeps the small files that go along with them.

    All processes call this; process 0 writes.
    """
    if not settings.run.initial:
        return
    place = open_place(settings.run.initial)
    if not exchange.is_first():
        return
    if isinstance(place, FolderPlace):
        keep_small_files(place.folder, directory)
    elif (place.found.run / INITIAL).is_dir():
        shutil.copytree(place.found.run / INITIAL, directory / INITIAL, dirs_exist_ok=True)
    (directory / INITIAL).mkdir(exist_ok=True)
    note: dict[str, Any] = {"place": place.text, "takes": settings.run.initial_takes, "identity": place.identity()}
    if isinstance(place, RunPlace):
        note |= {"run": str(place.found.run.absolute()), "phase": place.phase.name, "step": place.found.record.position.step}
        if (place.found.run / INITIAL / ORIGIN).is_file():
            note["before"] = json.loads((place.found.run / INITIAL / ORIGIN).read_text())
    write_whole(directory / INITIAL / ORIGIN, json.dumps(note, indent=1) + "\n")


def check_origin(settings: config.Config, directory: pathlib.Path) -> None:
    """Raises RunDirectoryError if a run that has begun is started with another `run.initial` than it began from. The same one may have moved.

    All processes call this; process 0 reads the directory.
    """
    path, initial = directory / INITIAL / ORIGIN, settings.run.initial
    note = exchange.from_first(json.loads(path.read_text()) if exchange.is_first() and path.is_file() else None)
    if note is None:
        if initial:
            raise RunDirectoryError(
                f"run.initial is {initial}, but the run in {directory} began from random parameters: set run.directory to a new folder"
            )
        return
    if initial == note["place"] and settings.run.initial_takes == note["takes"]:
        return
    advice = (
        f"the run in {directory} began from {note['place']} ({note['takes']}): set run.initial to that, or run.directory to a new folder"
    )
    if not initial or settings.run.initial_takes != note["takes"]:
        raise RunDirectoryError(f"run.initial is {initial!r} ({settings.run.initial_takes}), and {advice}")
    try:
        same = open_place(initial).identity() == note["identity"]
    except (WeightsError, CheckpointError) as error:
        raise RunDirectoryError(f"{error}; {advice}") from error
    if not same:
        raise RunDirectoryError(f"run.initial {initial} holds other parameters, and {advice}")
