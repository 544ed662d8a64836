"""Builds the report of a run from its directory. Damaged and missing files are named; everything else is shown."""

from __future__ import annotations

import json
import logging
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence

from data_pipelines.inspection.leaks import Opened, find_leaks
from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources import open_source
from neo_jax import config
from neo_jax.evaluation.report.data import MetricRow, PhaseResults, PhaseSpan, RunReport, SampleCard
from neo_jax.evaluation.report.pictures import first_answers, make_cards
from neo_jax.evaluation.report.skipped import read_skipped
from neo_jax.evaluation.report.write import write_report
from neo_jax.runs.benchmarks import read_benchmarks
from neo_jax.runs.evaluations import EvaluationRecord, read_evaluations
from neo_jax.runs.facts import read_facts
from neo_jax.runs.metrics import StepRecord, finite, read_records

SENTENCES = 5  # sentences on one kind of damage; further ones are only counted

logger = logging.getLogger(__name__)


def report_run(settings: config.Config) -> tuple[pathlib.Path, RunReport]:
    """Writes report.html and report.json into the run directory; returns the page's path and its data. Warnings and problems are logged."""
    report = build_report(settings)
    for sentence in (*report.warnings, *report.problems):
        logger.warning("report: %s", sentence)
    return write_report(settings.run.directory, report), report


def build_report(settings: config.Config) -> RunReport:
    """Reads the report of a run from its directory and its data."""
    directory = pathlib.Path(settings.run.directory)
    problems: list[str] = []
    steps = _add(problems, *_step_records(directory / "metrics.jsonl"))
    records = [record for record in _add(problems, *read_evaluations(directory)) if record.scores]
    starts, damage = read_facts(directory)
    _add(problems, starts, [damage] if damage else [])
    folder = pathlib.Path(settings.data.index_folder)
    training = _add(problems, *_open(settings.data.sources, folder / "tables"))
    held_out = _add(problems, *_open(settings.data.heldout, folder / "heldout" / "tables"))
    sizes = {
        (part, name): len(source) for part, opened in (("training", training), ("held-out", held_out)) for name, source in opened.items()
    }
    skipped = _add(problems, *read_skipped(directory, [phase.name for phase in settings.phases], sizes))
    _add(problems, None, _configuration_problems(directory / "config.json"))
    return RunReport(
        title="NEO-ov: what this run learned",
        phases=tuple(spans(settings, steps)),
        metrics=tuple(MetricRow(step.step, step.tokens, step.loss, step.source_loss, step.heldout_loss or {}) for step in steps),
        results=tuple(PhaseResults(record.phase, record.scores) for record in records),
        cards=tuple(_add(problems, *_cards(settings, records[-1], held_out))) if records else (),
        seconds=records[-1].seconds if records else None,
        parameters=settings.model.parameters(),
        starts=tuple(starts),
        configuration=settings.to_json(),
        skipped=tuple(skipped),
        epochs=steps[-1].epochs if steps else {},
        benchmarks=tuple(_add(problems, *read_benchmarks(directory))),
        warnings=tuple(find_leaks(training, held_out)),
        problems=tuple(problems),
    )


def _add[T](problems: list[str], values: T, found: Sequence[str]) -> T:
    """Appends the first sentences of `found` and the number of the others; returns `values`."""
    problems.extend(found[:SENTENCES])
    if len(found) > SENTENCES:
        problems.append(f"and {len(found) - SENTENCES:,} more like the last")
    return values


def _step_records(path: pathlib.Path) -> tuple[list[StepRecord], list[str]]:
    try:
        records, problems = read_records(path)
    except OSError as error:
        return [], [f"{path} cannot be read ({error.strerror}): no losses and speeds are shown"]
    return sorted(records, key=lambda record: record.step), problems


def spans(settings: config.Config, records: Sequence[StepRecord]) -> Iterator[PhaseSpan]:
    """Yields the phases of a curriculum as far as its records go: tokens, and medians of speed and MFU."""
    first, tokens_before = 1, 0
    for phase in settings.phases:
        own = [record for record in records if record.phase == phase.name]
        tokens = max((record.tokens for record in own), default=tokens_before)
        speeds, mfus = finite([record.tokens_per_second for record in own]), finite([record.mfu for record in own])
        speed, mfu = (statistics.median(values) if values else None for values in (speeds, mfus))
        yield PhaseSpan(phase.name, phase.context, phase.max_pixels, first, first + phase.steps - 1, tokens - tokens_before, speed, mfu)
        first, tokens_before = first + phase.steps, tokens


def _open(sources: Mapping[str, SourceSettings], tables: pathlib.Path) -> tuple[Opened, list[str]]:
    """Opens sources; returns those that can be opened, by name, and a sentence for each that cannot."""
    opened, problems = {}, []
    for name, settings in sources.items():
        try:
            opened[name] = open_source(settings, tables)
        except (DataError, OSError) as error:
            problems.append(f"source {name} is not shown or compared: {error}")
    return opened, problems


def _cards(settings: config.Config, record: EvaluationRecord, held_out: Opened) -> tuple[list[SampleCard], list[str]]:
    phase = next((phase for phase in settings.phases if phase.name == record.phase), None)
    if phase is None:
        return [], [f"no samples are shown: the last evaluation is of phase {record.phase}, which the configuration does not have"]
    return make_cards(first_answers(record.answers), list(held_out.values()), phase.input(), settings.run.seed)


def _configuration_problems(path: pathlib.Path) -> list[str]:
    """Returns a sentence if the run directory's config.json is damaged. The page shows the given configuration, but a later start needs that file."""
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return [f"{path} is missing: the next start of the run writes it"]
    except OSError as error:
        return [f"{path} cannot be read ({error.strerror})"]
    except (ValueError, RecursionError) as error:
        return [f"{path} is not JSON ({error}): the page shows the configuration that this command was given; put that back into the file"]
    return []
