"""The training loop: for each phase of the curriculum, trains, saves checkpoints and answers held-out questions. Resumes from the last checkpoint.

Every process of a run executes it. Only process 0 writes to the run directory, except for checkpoint arrays and logs of failed samples, which all
processes write.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Generator, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.batch import Batch
from data_pipelines.planning.planner import InputState
from data_pipelines.schema import Interrupted
from neo_jax import config
from neo_jax.model.backbone import Parameters
from neo_jax.processes import exchange
from neo_jax.runs.checkpoints import Checkpoints
from neo_jax.runs.directory import RunDirectory
from neo_jax.runs.facts import RunFacts, write_facts
from neo_jax.runs.goodput import Clock
from neo_jax.runs.metrics import MetricsWriter
from neo_jax.runs.record import CheckpointRecord, Position
from neo_jax.runs.trackers import check_trackers, open_trackers
from neo_jax.sharding import own_rows, slice_count
from neo_jax.training import flops, losses_of_data
from neo_jax.training.beginning import as_tree, begin, check_origin, goes_on, write_origin
from neo_jax.training.benchmarks import Benchmarks
from neo_jax.training.console import Progress, step_line
from neo_jax.training.continuing import check_changes, check_data, continued
from neo_jax.training.curriculum import abstract_state, next_state, overlap_problems, phase_mesh, phase_problems
from neo_jax.training.health import Health
from neo_jax.training.heldout import HeldoutLosses
from neo_jax.training.inputs import RunData, check_same, local_rows, on_devices, open_run_data, share_of_rows
from neo_jax.training.optimizer import learning_rates
from neo_jax.training.phase_evaluation import evaluate_phase
from neo_jax.training.profiling import Profiler
from neo_jax.training.recording import DispatchedStep, mean_heldout, step_record
from neo_jax.training.replicas import check_replicas
from neo_jax.training.schedule import Schedule
from neo_jax.training.slow_hosts import SlowHosts
from neo_jax.training.step import TrainState, train_step_of
from neo_jax.training.stopping import Preempted, StallGuard, StopSignal
from neo_jax.training.throughput import Throughput


class _Rewind(Exception):
    """A bad step after which the run goes back to the last checkpoint's parameters.

    Attributes:
      position: the position after the bad step.
    """

    def __init__(self, position: Position):
        super().__init__()
        self.position = position


@dataclasses.dataclass(frozen=True)
class _PhaseTools:
    """The objects that all steps of one phase use."""

    phase: config.Phase
    rates: np.ndarray
    heldout: HeldoutLosses
    throughput: Throughput
    schedule: Schedule


class Trainer:
    """Runs a configuration in its run directory. age: seconds for which the process has run already (runs.goodput)."""

    def __init__(self, settings: config.Config, progress: Progress | None = None, age: float = 0.0):
        self.settings = settings
        self._clock = Clock(age)
        self.progress = progress or Progress(silent=not exchange.is_first())
        self._state: TrainState | None = None  # the only reference: a new state frees the memory of the old one
        self._tokens, self._seconds = 0, 0.0  # tokens trained on, and seconds of earlier starts
        self._failures = losses_of_data.FailureLines()
        self._health = Health(settings.run, {})
        self._heldout: float | None = None  # mean held-out loss, if the last step measured it
        self._metrics: MetricsWriter | None = None  # in process 0 only

    def run(self) -> None:
        """Trains from the last checkpoint in the run directory, or from the start, to the end of the curriculum.

        Raises:
          config.ConfigError: the mesh of a phase does not fit the devices, or its rates name no parameter.
          RunDirectoryError: the directory is in use, or holds a run with another configuration or other data.
          runs.checkpoints.CheckpointError: checkpoints cannot be read or written.
          BadStepError: a loss or norm is not finite or a loss spikes, and run.bad_steps or max_bad_steps say that the run stops.
          Preempted: a signal stopped the run; its state is saved.
          data_pipelines.schema.DataError: the data cannot be used.
        """
        if problems := phase_problems(self.settings, jax.device_count(), slice_count(jax.devices())) or overlap_problems(self.settings):
            raise config.ConfigError(problems)
        if exchange.is_first():
            check_trackers(self.settings.run.trackers)
        self._started = time.monotonic()
        with contextlib.ExitStack() as resources:
            resources.enter_context(self._clock)
            self._directory = _agreed_directory(self.settings, resources)
            self._stop = resources.enter_context(StopSignal())
            self._profiler = resources.enter_context(Profiler(self._directory.path, self.settings.run.profile_steps))
            self._guard = resources.enter_context(StallGuard(self.settings.data.stall_seconds, self.settings.run.hang_seconds))
            self._benchmarks, self._slow = Benchmarks(self.settings), SlowHosts(self._directory.path)
            self._data = self._open_data()
            run = self.settings.run
            kept = (run.keep_checkpoints, self.settings.phase_ends(), run.keep_every, run.keep_best, run.copies)
            self._checkpoints = Checkpoints(self._directory.path / "checkpoints", *kept)
            resources.callback(self._clock.during("save")(self._checkpoints.close))
            new = not exchange.from_first(self._checkpoints.steps())
            with self._clock.during("restore"):
                position = self._restore(new)
            if new:
                write_origin(self.settings, self._directory.path)
            if exchange.is_first():
                begun = [phase.name for phase in self.settings.phases[: position.phase + 1]] if position.step else []
                self._directory.claim(begun, position.step)
                write_facts(self._directory.path, RunFacts.now(self.settings.model.parameters()))
                self._clock.write_to(self._directory.path)
                trackers = open_trackers(self.settings.run.trackers, self._directory.path, self.settings.resolved())
                self._metrics = resources.enter_context(MetricsWriter(self._directory.path, position.step, trackers))
                self._clock.done_before(self._metrics.last_step)
            for number in range(position.phase, len(self.settings.phases)):
                position = self._phase(number, position)

    def _open_data(self) -> RunData:
        """Opens the data. Process 0 builds missing length indexes first; then the others read them, or build them if their disk is not shared."""
        process = jax.process_index()

        def stop_requested() -> bool:
            self._guard.beat()
            return self._stop.reached()

        def opened() -> RunData:
            try:
                with self._guard.watching("opening the data"):
                    return open_run_data(self.settings, process, stop_requested)
            except Interrupted as error:
                raise Preempted(f"stopped by a signal before the first step: {error}", agreed=jax.process_count() == 1) from error

        data = opened() if process == 0 else None
        exchange.barrier()
        data = data or opened()
        self._stop.align()
        check_same(data)
        indexes = [*data.indexes, *data.heldout_indexes]
        self._print(losses_of_data.ignored_lines([*data.sources, *data.heldout]))
        self._print(losses_of_data.excluded_lines(indexes))
        self._print(losses_of_data.converted_lines(indexes))
        for number in data.train.laid_out:
            self._print_layout(number, data)
        self._print(losses_of_data.epoch_lines(self.settings.phases, data.train.forecast, data.sources))
        return data

    def _print_layout(self, phase: int, data: RunData) -> None:
        layout = data.train.layout(phase)
        self._print(losses_of_data.too_long_lines(self.settings.phases[phase], layout.too_long))
        self._print(losses_of_data.underfilled_lines(self.settings.phases[phase], layout.advice))

    def _print(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.progress.line(line)

    def _template(self, record: CheckpointRecord) -> dict[str, Any]:
        """Returns the arrays that a checkpoint of this run has."""
        check_changes(self._directory, record)
        phase = self.settings.phases[record.position.phase]
        return as_tree(abstract_state(self.settings, phase, phase_mesh(phase)))

    def _restore(self, new: bool) -> Position:
        """Restores the newest checkpoint, or, for a new run, that of another run which it goes on from; returns its position, or the start's."""
        if not new:
            check_origin(self.settings, self._directory.path)
        restored = self._checkpoints.restore(self._template) or goes_on(self.settings, self._directory)
        if restored is None:
            return Position(0, 0, 0, self._data.train.start())
        arrays, record = restored
        check_data(self._directory, record, self._data)
        self._state = TrainState(**arrays)
        self._tokens, self._seconds = record.tokens, record.seconds
        self._data.train.failures.restore(record.failures)
        self._health = Health(self.settings.run, record.health)
        phase = self.settings.phases[record.position.phase]
        self.progress.line(f"resumed after step {record.position.step}, in phase {phase.name}")
        position, note = continued(self._directory, record, self._data, self.settings.phases)
        self._print([note] if note else [])
        return position

    def _phase(self, number: int, position: Position) -> Position:
        """Trains phase `number` to its end and answers its held-out questions; returns the position after it."""
        phases = self.settings.phases
        phase = phases[number]
        mesh = phase_mesh(phase)
        with jax.set_mesh(mesh):
            if self._state is None:
                self._state = begin(self.settings)
            elif position.phase != number:
                self._state = next_state(self.settings, self._take_state(), phases[number - 1], phase)
                position = dataclasses.replace(position, phase=number, phase_step=0)
            while position.phase_step < phase.steps:
                try:
                    position = self._train(phase, position, mesh)
                except _Rewind as bad:
                    position = bad.position
                    self._rewind(number, position)
        with self._clock.during("evaluation"), self._guard.watching("reading held-out questions"):
            parameters = self._evaluated_parameters()
            evaluate_phase(self.settings, number, self._data, parameters, self._total_seconds, self.progress, self._check_stop)
        self._ask_benchmarks(phase, position)
        return position

    def _rewind(self, number: int, position: Position) -> None:
        """Takes parameters and moments of the last checkpoint, or of the start, to `position` in phase `number`, and saves them there."""
        self._state = None
        with self._clock.during("restore"), self._guard.watching_devices("going back to the last checkpoint"):
            self._checkpoints.wait()
            restored = self._checkpoints.restore(self._template)
        phases, step = self.settings.phases, 0
        if restored is None:
            self._state = begin(self.settings)  # no step was saved, so this is the first phase
        else:
            arrays, record = restored
            self._state, step = TrainState(**arrays), record.position.step
            if record.position.phase != number:
                self._state = next_state(self.settings, self._take_state(), phases[number - 1], phases[number])
        self.progress.line(f"step {position.step}: went back to the parameters of step {step}, and on behind the rows read since")
        self._save(position)

    def _ask_benchmarks(self, phase: config.Phase, position: Position) -> None:
        def record(name: str, score: float) -> None:
            if self._metrics is not None:
                self._metrics.write_score(position.step, name, score)

        with self._clock.during("evaluation"), self._guard.watching("reading questions of benchmarks"):
            parameters = self._evaluated_parameters()
            self._benchmarks.ask(phase, position.step, self._data, parameters, self.progress, self._check_stop, record)

    def _train(self, phase: config.Phase, position: Position, mesh: Mesh) -> Position:
        """Takes the steps of a phase from `position` to its end; returns the position there. Fetches the results of each step while the next runs."""
        step = train_step_of(self.settings, phase, self._current_state().trainable)
        tools = self._tools(phase)
        if position.phase not in self._data.train.laid_out:
            with self._guard.watching(f"reading the lengths of phase {phase.name}"):
                self._print_layout(position.phase, self._data)
        if self._benchmarks.due(phase, position.phase_step):  # those that an earlier start did not finish
            self._ask_benchmarks(phase, position)
        pending: DispatchedStep | None = None
        with self._clock.during("step"), contextlib.closing(self._batches(phase, position, mesh)) as batches:
            for batch, after, waited in batches:
                rate = tools.rates[position.phase_step]
                counts = flops.count_rows(batch)
                limit = self._health.loss_limit(position.phase, position.step + 1)
                starting = self._guard.watching_devices(f"compiling or starting step {position.step + 1}")
                with starting, self._profiler.step(position.step + 1):
                    self._state, metrics = step(self._take_state(), batch, rate, limit)
                if pending is not None:
                    self._finish(pending, tools)
                position = Position(position.phase, position.phase_step + 1, position.step + 1, after)
                pending = DispatchedStep((metrics, counts), position, float(rate), waited)
                stop = self._stop.reached()
                if stop or tools.schedule.waits(position):
                    self._finish(pending, tools)  # before saving: a state that is not finite is never written
                    pending = None
                    saves = stop or tools.schedule.saves(position)
                    if tools.schedule.compares(position, saves):
                        with self._guard.watching_devices("comparing replicas"):
                            check_replicas(self._current_state(), mesh, position.step, phase.name, self._directory.path)
                    if saves:
                        self._save(position)
                if stop:
                    with self._clock.during("save"), self._guard.watching_devices("writing a checkpoint"):
                        self._checkpoints.wait()
                    raise Preempted(
                        f"stopped by a signal after step {position.step}; everything is saved: the same command continues from there"
                    )
                if self._benchmarks.due(phase, position.phase_step):
                    self._ask_benchmarks(phase, position)
        return position

    def _tools(self, phase: config.Phase) -> _PhaseTools:
        shapes = {name: value.shape for name, value in self._current_state().parameters.items()}
        throughput = Throughput(self.settings.model, phase, shapes)
        schedule = Schedule(self.settings.run, phase, functools.partial(self._benchmarks.due, phase))
        return _PhaseTools(phase, learning_rates(phase), HeldoutLosses(self._data, self.settings, phase), throughput, schedule)

    def _batches(self, phase: config.Phase, position: Position, mesh: Mesh) -> Generator[tuple[Batch, InputState, float]]:
        """Yields the batch of each step, on the devices; the state of the input after it; and the seconds that were spent waiting for it."""
        rows = local_rows(phase.rows_per_step, phase.accumulate, own_rows(phase.rows_per_step // phase.accumulate))
        prepare = functools.partial(on_devices, phase.accumulate, mesh)
        share = share_of_rows(rows, phase.rows_per_step, self.settings.data.threads)
        with contextlib.closing(self._data.train.batches(position.input, rows, phase.mesh.context, prepare, share)) as batches:
            for step in itertools.count(position.step + 1):
                self._clock.step(step)
                began = time.monotonic()
                with self._clock.during("data"), self._guard.watching(f"reading rows of phase {phase.name}"):
                    item = next(batches, None)
                if item is None:
                    return
                yield *item, time.monotonic() - began

    def _take_state(self) -> TrainState:
        """Returns the state and drops the reference to it, so that its buffers can be donated."""
        state, self._state = self._current_state(), None
        return state

    def _current_state(self) -> TrainState:
        assert self._state is not None
        return self._state

    def _evaluated_parameters(self) -> Parameters:
        state = self._current_state()
        return state.averaged_trainable() | state.frozen if self.settings.evaluation.average else state.parameters

    def _finish(self, done: DispatchedStep, tools: _PhaseTools) -> None:
        """Fetches the results of a step, checks them and records them. This is the only point at which a step waits for the devices."""
        with self._guard.watching_devices(f"computing step {done.position.step}"):
            metrics, counts = jax.device_get(done.results)
        self._profiler.finished(done.position.step)
        phase, totals = tools.phase, flops.total(counts)
        problem = self._health.judge(metrics, done.position)
        if problem:
            keys = functools.partial(self._data.train.keys, done.position.phase)
            self.progress.line(self._health.note(problem, done.position, phase, keys, self._directory.path))
        rewinds = bool(problem) and self.settings.run.bad_steps == "rewind"
        self._tokens += totals.tokens
        useful = tools.throughput.useful_flops(totals)
        speed = tools.throughput.step_ended(self._tokens, useful, done.waited)
        heldout = None
        measures = tools.schedule.measures_heldout(done.position) and not rewinds  # these parameters are given up
        if measures:
            with self._clock.during("evaluation"):
                heldout = tools.heldout.measure(self._evaluated_parameters())
        self._heldout = mean_heldout(heldout)
        record = step_record(
            phase,
            done,
            metrics,
            totals,
            speed,
            {name: source.task for name, source in self.settings.data.sources.items()},
            tokens=self._tokens,
            heldout_loss=heldout,
            epochs=self._data.train.epochs(done.position.input),
            useful_flops=useful,
        )
        if self._metrics is not None and (measures or record.step % self.settings.run.log_every == 0):
            self._metrics.write(record)
        failures = self._data.train.failures
        self._print(self._failures.new(failures.by_source, failures.samples))
        self._print(self._slow.step_ended(done.waited, record.step, phase.name, record.step % self.settings.run.log_every == 0))
        self.progress.show(step_line(phase, done.position.phase_step, record, speed))
        if rewinds:
            raise _Rewind(done.position)

    def _save(self, position: Position) -> None:
        record = CheckpointRecord(
            position,
            list(self.settings.data.sources),
            self._tokens,
            self._total_seconds(),
            self._data.identity,
            self._data.train.failures.state(),
            self.settings.resolved(),
            self._health.state(),
            self._heldout,
        )
        with self._clock.during("save"), self._guard.watching_devices("saving a checkpoint"):
            self._checkpoints.save(as_tree(self._current_state()), record)

    def _total_seconds(self) -> float:
        return self._seconds + time.monotonic() - self._started

    def _check_stop(self) -> None:
        self._guard.beat()
        self._stop.check("answering held-out questions")


def _agreed_directory(settings: config.Config, resources: contextlib.ExitStack) -> RunDirectory:
    """Returns the run directory; process 0 holds its lock on behalf of all processes."""
    directory = RunDirectory(settings)
    if exchange.is_first():
        resources.enter_context(directory)
    exchange.barrier()
    return directory
