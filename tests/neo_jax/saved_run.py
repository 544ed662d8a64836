"""Run directories as training leaves them, made without training."""

import pathlib
from collections.abc import Callable

import jax

from data_pipelines.planning.planner import InputState
from neo_jax.config import Config
from neo_jax.runs.checkpoints import Checkpoints
from neo_jax.runs.record import CheckpointRecord, Position
from neo_jax.sharding import make_mesh
from neo_jax.training.beginning import as_tree, begin, write_origin
from neo_jax.training.curriculum import next_state
from neo_jax.training.step import TrainState


def saved_run(
    directory: pathlib.Path, settings: Config, phases: int = 1, change: Callable[[TrainState], TrainState] = lambda state: state
) -> pathlib.Path:
    """Makes a run directory with a checkpoint at the end of each of the first phases, as training leaves it but for the steps between."""
    checkpoints = Checkpoints(directory / "checkpoints", keep=1, keep_steps=range(100))
    directory.joinpath("config.json").write_text(settings.to_json())
    write_origin(settings, directory)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        state = begin(settings)
        for number, phase in enumerate(settings.phases[:phases]):
            if number:
                state = next_state(settings, state, settings.phases[number - 1], phase)
            position = Position(number, phase.steps, 10 * (number + 1), InputState(number, 0, 0, (0,) * len(settings.data.sources)))
            record = CheckpointRecord(position, list(settings.data.sources), 1000, 1.0, {}, {}, settings.resolved())
            checkpoints.save(as_tree(change(state)), record)
    checkpoints.close()
    return directory
