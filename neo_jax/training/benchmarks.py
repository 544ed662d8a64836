"""Benchmarks that a run asks after its phases, and every so many steps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping

import jax

from data_pipelines.schema import SampleError
from neo_jax import config
from neo_jax.evaluation.published import published_line
from neo_jax.evaluation.results import SCORES, AnswersFile, write_results
from neo_jax.evaluation.suites import Suite, answer, open_suite
from neo_jax.inference.answering import Answerer
from neo_jax.model.backbone import Parameters, abstract
from neo_jax.model.computation import Computation
from neo_jax.processes import exchange
from neo_jax.runs.benchmarks import folder_of
from neo_jax.sharding import make_mesh
from neo_jax.training.console import Progress
from neo_jax.training.inputs import RunData

PICTURES = "faithful"  # how own rows' pictures are read where the sources do not agree


class Benchmarks:
    """The benchmarks of a configuration.

    Raises:
      DataError: a file cannot be asked.
    """

    def __init__(self, settings: config.Config):
        self._settings = settings
        policies = {source.pictures for source in settings.data.sources.values()}
        pictures = policies.pop() if len(policies) == 1 else PICTURES
        self._suites = {name: open_suite(asked, pictures) for name, asked in settings.evaluation.benchmarks.items()}

    def due(self, phase: config.Phase, phase_step: int) -> bool:
        """Returns whether they are asked after a step of a phase, not counting its last one."""
        every = self._settings.evaluation.benchmark_every
        return bool(self._suites and phase.visual_tokens and every and 0 < phase_step < phase.steps and phase_step % every == 0)

    def ask(
        self,
        phase: config.Phase,
        step: int,
        data: RunData,
        parameters: Parameters,
        progress: Progress,
        check_stop: Callable[[], None],
        record: Callable[[str, float], None],
    ) -> None:
        """Asks those that have no answers after this step yet, and writes benchmarks/NAME/STEP/ to the run directory.

        Args:
          step: number of the step in the whole run.
          parameters: parameters after the step, on any mesh.
          check_stop: called after each question that is read and each batch. An exception from it ends the evaluation; the next start goes on.
          record: called in process 0 with name and score.
        """
        run = pathlib.Path(self._settings.run.directory).absolute()
        asked = {name: (suite, self._asked(name, suite, phase, step)) for name, suite in self._suites.items()}
        done = exchange.from_first({name: _is_done(folder_of(run, name, step), want) for name, (_, want) in asked.items()})
        left = {name: each for name, each in asked.items() if not done[name]}
        if not left:
            return
        if not phase.visual_tokens:
            progress.line(f"{phase.name}: benchmarks are not asked in a phase without pictures")
            return
        with jax.set_mesh(make_mesh(data=-1, fsdp=phase.mesh.fsdp, tensor=phase.mesh.tensor)):
            shapes = abstract(self._settings.model, phase.architecture)
            on_mesh = {name: jax.device_put(value, shapes[name].sharding) for name, value in parameters.items()}
            computation = Computation.of(phase, self._settings.run.debug)
            limits = dataclasses.replace(phase.input(), jpeg_quality=(0, 0))
            answerer = Answerer(self._settings.model, computation, on_mesh, data.tokenizer, limits)
            for name, (suite, want) in left.items():
                self._ask_one(name, suite, want, folder_of(run, name, step), answerer, progress, check_stop, record)

    def _ask_one(
        self,
        name: str,
        suite: Suite,
        want: Mapping[str, object],
        folder: pathlib.Path,
        answerer: Answerer,
        progress: Progress,
        check_stop: Callable[[], None],
        record: Callable[[str, float], None],
    ) -> None:
        settings = self._settings.evaluation.benchmarks[name]
        file = AnswersFile(folder, want, replace=True) if exchange.is_first() else None
        known = exchange.from_first(file.predictions if file is not None else None)

        def show(answered: int, total: int) -> None:
            progress.show(f"{answerer.limits.name}: {answered} of {total} answered of benchmark {name}")
            check_stop()

        try:
            answers = answer(suite, answerer, known if file is None else file, self._settings.evaluation.tokens, settings.blank, show)
        except SampleError as error:
            if error.reason != "too_long":
                raise
            progress.line(f"{answerer.limits.name}: benchmark {name} is not asked: {error}")
            return
        outcome = suite.outcome(answers)
        if file is not None:
            write_results(folder, outcome.results, outcome.content(want))
            record(name, outcome.overall)
        published = published_line(settings.benchmark) if settings.benchmark else ""
        progress.line(f"{answerer.limits.name}: benchmark {name} {outcome.overall:.1f} over {len(outcome.results)} questions{published}")

    def _asked(self, name: str, suite: Suite, phase: config.Phase, step: int) -> dict[str, object]:
        """Returns what answers depend on: the questions, and the run up to the step."""
        resolved = {key: value for key, value in self._settings.resolved().items() if key not in ("evaluation", "run")}
        digest = hashlib.sha256(json.dumps(resolved, sort_keys=True, default=str).encode()).hexdigest()
        asked = self._settings.evaluation.benchmarks[name]
        scoring = {key: getattr(asked, key) for key in ("metric", "tolerance", "pattern")}
        return {**suite.settings, **scoring, "phase": phase.name, "step": step, "configuration": digest}


def _is_done(folder: pathlib.Path, want: Mapping[str, object]) -> bool:
    try:
        found = json.loads((folder / SCORES).read_bytes())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(found == json.loads(json.dumps(want)))
