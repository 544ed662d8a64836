"""Walks the table of phases: train, save, answer held-out questions, next phase; from wherever the run stopped.

With several processes each runs this. Process 0 alone writes the run directory, but for the checkpoints' arrays and logs of failed samples.
"""

from __future__ import annotations

import collections
import dataclasses
import fcntl
import json
import pathlib
import signal
import time
from collections.abc import Generator
from typing import Any, TextIO

import jax
import numpy as np

from data_pipelines.failures import FailurePolicy, Failures
from data_pipelines.loading.loader import Batch
from data_pipelines.planning.planner import InputState
from data_pipelines.schema import DataError
from data_pipelines.storage import write_whole
from neo_jax import config
from neo_jax.evaluation.questions import Answer, answer_questions, check_same, read_questions
from neo_jax.evaluation.scoring import score
from neo_jax.interop.initial import initial_parameters
from neo_jax.model.backbone import abstract
from neo_jax.processes import exchange
from neo_jax.runs.checkpoints import Checkpoints
from neo_jax.runs.metrics import MetricsWriter
from neo_jax.sharding import make_mesh, own_rows, row_shards, slice_count, to_devices
from neo_jax.training import flops
from neo_jax.training.console import Progress
from neo_jax.training.curriculum import abstract_state, first_state, mesh_problems, next_state, phase_mesh
from neo_jax.training.inputs import Inputs, accumulated, local_rows, open_inputs
from neo_jax.training.optimizer import learning_rate
from neo_jax.training.step import Computation, TrainState, make_heldout_step, make_train_step

SPEED_STEPS = 20  # steps that the displayed speed is averaged over


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not a number; the message names step, phase and rows."""


class Preempted(Exception):
    """SIGTERM arrived; everything up to the last step is saved."""


class RunDirectoryError(RuntimeError):
    """A run directory that cannot be used: in use, of another configuration, or over other data."""


@dataclasses.dataclass
class Position:
    """Where a run stands: after `phase_step` steps of phase number `phase`."""

    phase: int
    phase_step: int
    step: int
    input: InputState


@dataclasses.dataclass(frozen=True)
class _Done:
    """A step that was dispatched and whose metrics are still on the device."""

    metrics: dict[str, Any]
    counts: jax.Array
    position: Position
    values: dict[str, float]
    first_row: int


class Trainer:
    """One run of a configuration in its run directory."""

    def __init__(self, settings: config.Config, progress: Progress | None = None):
        self.settings = settings
        self.directory = pathlib.Path(settings.run.directory).absolute()
        self.progress = progress or Progress(silent=not exchange.is_first())
        self._stop = False
        self._tokens, self._seconds = 0, 0.0  # of the run, earlier starts included

    def run(self) -> None:
        """Trains from where the directory stands to the end of the curriculum.

        Raises:
          config.ConfigError: the mesh of a phase does not fit the devices.
          RunDirectoryError: the directory is in use or holds a run of another configuration or over other data.
          NonFiniteError, Preempted: as named.
          data_pipelines.schema.DataError: the data cannot be used.
        """
        if problems := mesh_problems(self.settings, jax.device_count(), slice_count(jax.devices())):
            raise config.ConfigError(problems)
        lock = prepare_directory(self.settings, self.directory) if exchange.is_first() else None
        exchange.barrier()
        self._started = time.monotonic()
        alone = jax.process_count() == 1  # jax listens for SIGTERM in runs of several processes
        before = signal.signal(signal.SIGTERM, self._request_stop) if alone else None
        checkpoints = Checkpoints(self.directory / "checkpoints", self.settings.run.keep_checkpoints)
        try:
            self.inputs = self._open_inputs()
            self._show_unusable()
            position, state = self._restore(checkpoints)
            self.metrics = MetricsWriter(self.directory, position.step) if exchange.is_first() else None
            for number in range(position.phase, len(self.settings.phases)):
                position, state = self._phase(number, position, state, checkpoints)
        finally:
            checkpoints.close()
            if alone:
                signal.signal(signal.SIGTERM, before)
            if lock is not None:
                lock.close()
        if self.metrics is not None:
            self.metrics.close()

    def _open_inputs(self) -> Inputs:
        """Process 0 builds what length indexes are missing; then the others read them, or build their own on a disk of their own."""
        process = jax.process_index()
        inputs = open_inputs(self.settings) if process == 0 else None
        exchange.barrier()
        if inputs is None:
            inputs = open_inputs(self.settings, process)
        mine = inputs.identity | {f"held-out source {index.name}": index.digest() for index in inputs.heldout_indexes}
        first, *others = exchange.gather(mine)
        for number, other in enumerate(others, 1):
            if changed := [name for name in first if first[name] != other[name]]:
                raise DataError(
                    f"process {number} reads other data than process 0: {', '.join(changed)}; give all processes the same files"
                )
        return inputs

    def _show_unusable(self) -> None:
        for index in (*self.inputs.indexes, *self.inputs.heldout_indexes):
            if index.unusable:
                counts = ", ".join(f"{count} {reason}" for reason, count in index.unusable.most_common())
                self.progress.line(f"{index.name}: {index.unusable.total()} of {len(index)} samples cannot be used ({counts}): {index.log}")

    def _request_stop(self, *_: object) -> None:
        self._stop = True

    def _restore(self, checkpoints: Checkpoints) -> tuple[Position, TrainState | None]:
        def template(record: dict[str, Any]) -> dict[str, Any]:
            phase = self.settings.phases[record["phase"]]
            return dataclasses.asdict(abstract_state(self.settings, phase, phase_mesh(phase)))

        restored = checkpoints.restore(template)
        if restored is None:
            return Position(0, 0, 0, self.inputs.train.start()), None
        step, arrays, record = restored
        now = self.inputs.identity
        if changed := [name for name in now if now[name] != record["data"].get(name)]:
            raise RunDirectoryError(
                f"{self.directory} holds a run over other data: {', '.join(changed)} changed since step {step}, and with it the order of the "
                "samples; put back what the run began with, or set run.directory to a new one"
            )
        position = Position(record["phase"], record["phase_step"], step, InputState.from_json(record["input"]))
        self._tokens, self._seconds = record["tokens"], record["seconds"]
        self.progress.line(f"resumed after step {step}, in phase {self.settings.phases[position.phase].name}")
        return position, TrainState(**arrays)

    def _save(self, checkpoints: Checkpoints, position: Position, state: TrainState) -> None:
        record = dataclasses.asdict(position) | {"input": position.input.to_json()}
        record |= {"tokens": self._tokens, "seconds": self._total_seconds()}
        record |= {"data": self.inputs.identity, "configuration": self.settings.resolved()}
        checkpoints.save(position.step, {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}, record)

    def _total_seconds(self) -> float:
        return self._seconds + time.monotonic() - self._started

    def _phase(
        self, number: int, position: Position, state: TrainState | None, checkpoints: Checkpoints
    ) -> tuple[Position, TrainState | None]:
        phases = self.settings.phases
        phase = phases[number]
        with jax.set_mesh(phase_mesh(phase)):
            if position.phase != number and state is not None:
                state = next_state(self.settings, state, phases[number - 1], phase)
                position = dataclasses.replace(position, phase=number, phase_step=0)
            if state is None:
                state = first_state(self.settings, initial_parameters(self.settings) if self.settings.run.initial else None)
            if position.phase_step < phase.steps:
                position, state = self._train(phase, position, state, checkpoints)
        self._evaluate(number, phase, state)
        return position, state

    def _train(self, phase: config.Phase, position: Position, state: TrainState, checkpoints: Checkpoints) -> tuple[Position, TrainState]:
        names = list(self.settings.data.sources)
        step = make_train_step(self.settings.model, Computation.of(phase), self.settings.optimizer, len(names))
        schedule, model = learning_rate(phase), self.settings.model
        heldout = _Heldout(self.inputs, self.settings, phase)
        shapes = {name: value.shape for name, value in state.parameters.items()}
        peak = flops.peak(jax.devices()[0].device_kind)
        times: collections.deque[tuple[float, int]] = collections.deque(maxlen=SPEED_STEPS)
        pending: _Done | None = None
        batches = self._batches(phase, position)
        every, checkpoint_every = self.settings.run.heldout_every, self.settings.run.checkpoint_every

        def finish(done: _Done) -> None:
            metrics = jax.device_get(done.metrics)
            self._check_finite(metrics, done, phase)
            tokens, visual, pairs = flops.total(jax.device_get(done.counts))
            self._tokens += tokens
            times.append((time.monotonic(), self._tokens))
            values = {"phase": phase.name, "tokens": self._tokens} | _figures(metrics, names) | done.values
            values["fill"] = tokens / (phase.rows_per_step * phase.context)
            useful = flops.useful(shapes, model.heads, model.head_dim, phase.trains, tokens, visual, pairs)
            values["useful_flops"] = useful
            if len(times) > 1:
                elapsed = times[-1][0] - times[0][0]
                values["tokens_per_second"] = (times[-1][1] - times[0][1]) / elapsed
                if peak is not None:
                    values["mfu"] = useful * (len(times) - 1) / elapsed / (peak * jax.device_count())
            at = done.position.phase_step
            if (every and at % every == 0) or at == phase.steps:
                values["heldout_loss"] = heldout.losses(state.parameters)
            if self.metrics is not None and (done.position.step % self.settings.run.log_every == 0 or "heldout_loss" in values):
                self.metrics.write(done.position.step, values)
            self._show(phase, done.position, values, times)

        waited_from = time.monotonic()
        for batch, after in batches:
            waited = time.monotonic() - waited_from
            values = {"input_wait_seconds": waited, "learning_rate": float(schedule(position.phase_step))}
            first_row = position.phase_step * phase.rows_per_step
            rows = to_devices(batch, accumulation_axis=True)
            counts = flops.count_rows(rows)
            state, metrics = step(state, rows, np.float32(values["learning_rate"]))
            if pending is not None and not self._boundary(pending.position, phase):
                finish(pending)
            position = dataclasses.replace(position, phase_step=position.phase_step + 1, step=position.step + 1, input=after)
            pending = _Done(metrics, counts, position, values, first_row)
            stop = self._stop_requested(position.step)
            if stop or self._boundary(position, phase):
                finish(pending)  # before the state is saved: what is not finite is never written
                if stop or position.step % checkpoint_every == 0 or position.phase_step == phase.steps:
                    self._save(checkpoints, position, state)
                pending = None
            if stop:
                batches.close()
                checkpoints.wait()
                raise Preempted(f"stopped by SIGTERM after step {position.step}; everything is saved: the same command goes on from there")
            waited_from = time.monotonic()
        return position, state

    def _boundary(self, position: Position, phase: config.Phase) -> bool:
        """Whether the state after this step is looked at: saved, or asked for its held-out loss."""
        every = self.settings.run.heldout_every
        return (
            position.step % self.settings.run.checkpoint_every == 0
            or position.phase_step == phase.steps
            or bool(every and position.phase_step % every == 0)
        )

    def _batches(self, phase: config.Phase, position: Position) -> Generator[tuple[Batch, InputState]]:
        rows = local_rows(phase.rows_per_step, phase.accumulate, own_rows(phase.rows_per_step // phase.accumulate))
        return accumulated(self.inputs.train.batches(position.input, phase.rows_per_step, rows, phase.mesh.context), phase.accumulate)

    def _stop_requested(self, step: int) -> bool:
        if jax.process_count() == 1:
            return self._stop
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _check_finite(self, metrics: dict[str, Any], done: _Done, phase: config.Phase) -> None:
        if np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"]):
            return
        rows = range(done.first_row, done.first_row + phase.rows_per_step)
        keys = [key for row in rows for key in self.inputs.train.keys(self.settings.phases.index(phase), row)]
        raise NonFiniteError(
            f"loss {metrics['loss']}, gradient norm {metrics['gradient_norm']} at step {done.position.step}, step {done.position.phase_step} "
            f"of phase {phase.name}, rows {rows.start} to {rows.stop - 1}; the last checkpoint is from before. Samples: {', '.join(keys)}"
        )

    def _show(self, phase: config.Phase, position: Position, values: dict[str, Any], times: collections.deque) -> None:
        text = f"{phase.name} {position.phase_step}/{phase.steps}  loss {values['loss']:.3f}  gradient {values['gradient_norm']:.2f}"
        text += f"  rate {values['learning_rate']:.1e}  fill {values['fill']:.1%}"
        if "tokens_per_second" in values:
            seconds = (times[-1][0] - times[0][0]) / (len(times) - 1) * (phase.steps - position.phase_step)
            text += f"  {values['tokens_per_second']:,.0f} tokens/s"
            text += f"  MFU {values['mfu']:.1%}" if "mfu" in values else ""
            text += f"  {int(seconds) // 60}:{int(seconds) % 60:02d} left"
        if values.get("heldout_loss"):
            text += f"  held-out {np.mean(list(values['heldout_loss'].values())):.3f}"
        self.progress.show(text)

    def _evaluate(self, number: int, phase: config.Phase, state: TrainState) -> None:
        """Answers the held-out questions once; the answers are kept in evaluations/PHASE.json."""
        path = self.directory / "evaluations" / f"{number:02d}-{phase.name}.json"
        if exchange.from_first(path.exists()):
            return
        run, evaluation = self.settings.run, self.settings.evaluation
        last = number == len(self.settings.phases) - 1
        most = evaluation.questions if last else evaluation.interim_questions
        log = Failures(self.directory / "skipped_heldout.jsonl", FailurePolicy(max_rate=1.0))
        left_out = log.name if exchange.is_first() else lambda *_: None  # all processes read the same questions
        questions = read_questions(self.inputs.heldout, phase.input(), self.inputs.tokenizer, run.seed, most, left_out)
        check_same(questions)
        with jax.set_mesh(make_mesh(data=-1, fsdp=phase.mesh.fsdp, tensor=phase.mesh.tensor)):
            shapes = abstract(self.settings.model, phase.architecture)
            parameters = {name: jax.device_put(value, shapes[name].sharding) for name, value in state.parameters.items()}
            answers = answer_questions(
                self.settings.model,
                phase.architecture,
                parameters,
                questions,
                self.inputs.tokenizer,
                evaluation,
                phase.compute_dtype,
                lambda done, total: self.progress.show(f"{phase.name}: {done} of {total} held-out questions answered"),
            )
        if exchange.is_first():
            write_evaluation(path, phase.name, answers, self._total_seconds())
        scores = score(answers)
        if scores:
            mean = np.mean([each.exact_match for each in scores.values()])
            self.progress.line(f"{phase.name}: held-out exact match {mean:.1%} over {len(scores)} families, {len(answers)} questions")


class _Heldout:
    """Held-out losses of one phase."""

    def __init__(self, inputs: Inputs, settings: config.Config, phase: config.Phase):
        shards = row_shards()
        rows = -(-settings.run.heldout_rows // shards) * shards  # every device has as many
        own = [row for part in own_rows(rows) for row in part]
        self.names, self.batches = inputs.heldout_batches(phase.input(), rows, own, phase.mesh.context)
        self.step = make_heldout_step(settings.model, Computation.of(phase), len(self.names))

    def losses(self, parameters: dict[str, jax.Array]) -> dict[str, float]:
        sums: dict[str, np.ndarray] = {}
        for batch in self.batches:
            one = {name: array[None] for name, array in batch.items()}
            for name, value in jax.device_get(self.step(parameters, to_devices(one, accumulation_axis=True))).items():
                sums[name] = sums.get(name, 0) + value
        return {
            name: float(sums["source_loss"][i] / sums["source_weight"][i]) for i, name in enumerate(self.names) if sums["source_weight"][i]
        }


def _figures(metrics: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Metrics of a step as plain numbers."""
    figures: dict[str, Any] = {name: float(metrics[name]) for name in ("loss", "gradient_norm", "weight")}
    weights = metrics["source_weight"]
    figures["source_loss"] = {name: float(metrics["source_loss"][i] / weights[i]) for i, name in enumerate(names) if weights[i] > 0}
    return figures


def prepare_directory(settings: config.Config, directory: pathlib.Path) -> TextIO:
    """Creates or checks a run directory and writes the resolved configuration into it.

    Returns:
      the open lock file: the directory is this process's own until it is closed.

    Raises:
      RunDirectoryError: another process uses it, or it holds a run whose data order or mathematics differ.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunDirectoryError(f"{directory} is in use by another process: wait for it, or set run.directory to another one") from None
    path = directory / "config.json"
    if path.exists():
        forbidden, allowed = config.differences(json.loads(path.read_text()), settings.resolved())
        if forbidden:
            raise RunDirectoryError(
                f"{directory} holds a run of another configuration; what differs changes data order or mathematics:\n  "
                + "\n  ".join(forbidden)
                + "\nset run.directory to a new one, or take the changes back"
            )
        if allowed:
            with (directory / "config_changes.jsonl").open("a") as file:
                file.write(json.dumps({"time": time.time(), "changed": allowed}) + "\n")
    write_whole(path, settings.to_json())
    return lock


def write_evaluation(path: pathlib.Path, phase: str, answers: list[Answer], seconds: float) -> None:
    """Keeps every question, answer and truth of a phase as JSON."""
    record = {
        "phase": phase,
        "seconds": seconds,
        "answers": [
            {
                "family": answer.question.family,
                "key": answer.question.sample.key,
                "truth": answer.question.truth,
                "answer": answer.answer,
                "blank_answer": answer.blank_answer,
            }
            for answer in answers
        ],
        "scores": {family: dataclasses.asdict(each) for family, each in score(answers).items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record, indent=1))
