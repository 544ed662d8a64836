"""Checks that a run may continue from a checkpoint with the current configuration and data, and places its rows.

All processes call these functions; only process 0 reads the run directory.
"""

from __future__ import annotations

import dataclasses

from data_pipelines.loading.spliced import Earlier
from neo_jax import config
from neo_jax.processes import exchange
from neo_jax.runs.directory import RunDirectory, RunDirectoryError
from neo_jax.runs.record import CheckpointRecord, Position
from neo_jax.training.inputs import RunData


def check_changes(directory: RunDirectory, record: CheckpointRecord) -> None:
    """Raises RunDirectoryError if phases that the run had begun at the checkpoint have other settings now."""
    problem = None
    if exchange.is_first():
        try:
            begun = record.configuration["curriculum"][: record.position.phase + 1]
            ended = record.position.phase_step == record.configuration["phases"][begun[-1]]["steps"]
            directory.check_changes(begun, ended)
        except RunDirectoryError as error:
            problem = str(error)
    if problem := exchange.from_first(problem):
        raise RunDirectoryError(problem)


def check_data(directory: RunDirectory, record: CheckpointRecord, data: RunData) -> None:
    """Raises RunDirectoryError if the tokenizer or a source that the checkpoint recorded has other content now."""
    now = data.identity
    if changed := [name for name, digest in record.data.items() if now.get(name) != digest]:
        raise RunDirectoryError(
            f"{directory.path} holds a run over other data: {', '.join(changed)} changed since step {record.position.step}, and with it the "
            "order of the samples; put back what the run began with (of the order of rows: the version of neo_jax), or set run.directory to a "
            "new one"
        )


def continued(directory: RunDirectory, record: CheckpointRecord, data: RunData, phases: tuple[config.Phase, ...]) -> tuple[Position, str]:
    """Returns the checkpoint's position with one entry for each current source, and a message if rows are still planned by earlier settings, else "".

    The loader of `data` is set to finish the current block of rows as it was planned.
    """
    state = record.position.input
    read = dict(zip(record.sources, state.positions, strict=True))
    state = dataclasses.replace(state, positions=tuple(read.get(source.name, 0) for source in data.sources))
    begun = phases[record.position.phase]
    grown = state.phase > record.position.phase and record.position.phase_step < begun.steps
    if grown:  # the phase had ended and has got more steps: it goes on where it was, as if another phase began
        row = record.position.phase_step * begun.rows_per_step
        state = dataclasses.replace(state, phase=record.position.phase, row=row, cursor=0)
    known = directory.ends(begun.name, state.row if grown else None) if exchange.is_first() else {}
    data.train.plan_continued(exchange.from_first(known))
    position = dataclasses.replace(record.position, input=state)
    if state.phase == len(phases):
        return position, ""
    phase = phases[state.phase]
    until = min(data.train.next_block(state), phase.input().rows)
    of_first = [each.to_json() for each in directory.earlier(phase.name, until)] if exchange.is_first() else []
    earlier = [Earlier.from_json(each) for each in exchange.from_first(of_first)]
    data.train.plan_earlier(earlier)
    ends = [each.until for each in earlier if each.phase == phase.name and each.until > state.row]
    if not ends:
        return position, ""
    step = position.step + (max(ends) - state.row) // phase.rows_per_step
    return position, f"rows are planned as before up to step {step}; from then on by the mixture, keep and max_epochs of now"
