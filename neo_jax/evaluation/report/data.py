"""The results of a run as plain data, with the summary for report.json and the table for the terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from neo_jax.evaluation.report.figures import percent
from neo_jax.evaluation.results import NORMAL_QUANTILE
from neo_jax.runs.benchmarks import BenchmarkScore
from neo_jax.runs.evaluations import FamilyResult
from neo_jax.runs.facts import RunFacts


@dataclasses.dataclass(frozen=True)
class PhaseSpan:
    """One phase of the curriculum as it was run.

    Attributes:
      name: the phase's name.
      context: tokens of a row.
      max_pixels: largest number of pixels of an image; 0 if the phase reads text only.
      first_step, last_step: its first and last step, counted over the whole run.
      tokens: number of tokens that it trained on.
      tokens_per_second, mfu: medians over its steps; None if the metrics lack them.
    """

    name: str
    context: int
    max_pixels: int
    first_step: int
    last_step: int
    tokens: int
    tokens_per_second: float | None = None
    mfu: float | None = None


@dataclasses.dataclass(frozen=True)
class MetricRow:
    """The metrics of one step.

    Attributes:
      step: over the whole run.
      tokens: number of tokens trained on up to and including this step.
      loss: training loss in nats.
      source_losses: training loss of each source with labels in this step.
      held_out_losses: held-out loss of each source, on the steps that measured it.
    """

    step: int
    tokens: int
    loss: float
    source_losses: Mapping[str, float] = dataclasses.field(default_factory=dict)
    held_out_losses: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PhaseResults:
    """The held-out results at the end of a phase, by family."""

    phase: str
    families: Mapping[str, FamilyResult]


@dataclasses.dataclass(frozen=True)
class SampleCard:
    """A held-out question with the model's answer.

    Attributes:
      family: kind of question.
      images: PNG or JPEG files of its images or video frames.
      question, answer, truth: texts.
      note: which of its pictures are not shown, and why; "" if all are shown.
    """

    family: str
    images: tuple[bytes, ...]
    question: str
    answer: str
    truth: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Samples of a source that were not used for one reason.

    Attributes:
      part: "training" or "held-out".
      source, reason: name of the source, and reason, as in the logs.
      samples: number of samples.
      share: share of the source's samples; None if its size is not known.
      phase: name of the phase, if they were not used only because they did not fit a phase; else "".
      example: message of the first of them.
    """

    part: str
    source: str
    reason: str
    samples: int
    share: float | None
    phase: str
    example: str


@dataclasses.dataclass(frozen=True)
class RunReport:
    """Everything the report shows.

    Attributes:
      title: the page's heading.
      phases: in the order they were run.
      metrics: by ascending step.
      results: in the order of the phases; report.json has the figures of the last one. Empty if no phase was evaluated.
      cards: samples with answers after the last evaluated phase.
      seconds: time that the whole run took; None if it is not known.
      parameters: number of parameters of the model.
      starts: environment of each start of the run, as far as it is known.
      configuration: the resolved configuration as JSON text.
      skipped: samples that were not used.
      epochs: how often each source's samples were read.
      benchmarks: scores of benchmarks, by name and step.
      warnings: sentences on held-out samples that training may have seen.
      problems: sentences on damaged files of the run, and on anything else that cannot be shown.
    """

    title: str
    phases: tuple[PhaseSpan, ...]
    metrics: tuple[MetricRow, ...]
    results: tuple[PhaseResults, ...]
    cards: tuple[SampleCard, ...]
    seconds: float | None
    parameters: int = 0
    starts: tuple[RunFacts, ...] = ()
    configuration: str = ""
    skipped: tuple[Skipped, ...] = ()
    epochs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    benchmarks: tuple[BenchmarkScore, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.phases or not all(results.families for results in self.results):
            raise ValueError("A report needs at least one phase, and each of its results at least one family.")


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Returns the 95% confidence interval of a share of `count` trials.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if count <= 0:
        raise ValueError(f"An interval needs at least one trial, not {count}.")
    square = NORMAL_QUANTILE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = NORMAL_QUANTILE / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def overall(values: Sequence[float]) -> float:
    """Returns the macro average, in which every family has the same weight."""
    return sum(values) / len(values)


def maps_of(families: Mapping[str, FamilyResult]) -> dict[str, dict[str, float]]:
    """Returns maps of exact_match, blank_exact_match and majority, each with "overall" and every family; empty maps if there are none."""
    maps: dict[str, dict[str, float]] = {}
    for quantity in ("exact_match", "blank_exact_match", "majority"):
        values = {name: getattr(result, quantity) for name, result in families.items()}
        maps[quantity] = {"overall": overall(list(values.values())), **values} if values else {}
    return maps


def summary(report: RunReport) -> dict[str, Any]:
    """Returns the content of report.json. In the scores of a phase, "overall" is the mean over its families, which are the other keys."""
    measured = {results.phase: maps_of(results.families)["exact_match"] for results in report.results}
    phases = [{**dataclasses.asdict(phase), "exact_match": measured.get(phase.name, {})} for phase in report.phases]
    last = report.results[-1] if report.results else None
    facts = report.starts[-1] if report.starts else None
    families = last.families if last else {}
    return {
        "phases": phases,
        "evaluated_phase": last.phase if last else None,
        "families": list(families),
        **maps_of(families),
        "seconds": report.seconds,
        "parameters": report.parameters,
        "device_kind": facts.device_kind if facts else None,
        "device_count": facts.device_count if facts else None,
        "versions": facts.versions if facts else {},
        "commit": facts.commit or None if facts else None,
        "skipped": [dataclasses.asdict(each) for each in report.skipped],
        "epochs": dict(report.epochs),
        "benchmarks": [dataclasses.asdict(each) for each in report.benchmarks],
        "warnings": list(report.warnings),
        "problems": list(report.problems),
    }


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A row of the table of families and phases. Values are None if a phase was not asked questions of the family.

    Attributes:
      name: the family, or "mean over N families".
      matches: exact match after each phase. A mean is over the same families in every phase: None after one that was not asked all of them.
      blank, majority: exact match with blank images and of the majority answer, in the last phase.
      questions: number of questions in the last phase.
    """

    name: str
    matches: tuple[float | None, ...]
    blank: float | None
    majority: float | None
    questions: int


def table_rows(results: Sequence[PhaseResults]) -> tuple[list[TableRow], list[TableRow]]:
    """Returns the rows of the families, and rows of means, each over the same families in all phases.

    The first mean is over the families of the last phase. Phases with other families have further rows of means, over their families. There is no
    mean over a single family.
    """
    if not results:
        return [], []
    every = list(dict.fromkeys(family for phase in results for family in phase.families))
    rows = [_mean_row(name, (name,), results) for name in every]
    groups = dict.fromkeys(frozenset(phase.families) for phase in reversed(results))
    means = [_mean_row(f"mean over {len(group)} families", tuple(group), results) for group in groups if len(group) > 1]
    return rows, means


def _mean_row(name: str, group: Sequence[str], results: Sequence[PhaseResults]) -> TableRow:
    def mean(phase: PhaseResults, quantity: str) -> float | None:
        asked = all(family in phase.families for family in group)
        return overall([getattr(phase.families[family], quantity) for family in sorted(group)]) if asked else None

    last = results[-1]
    questions = sum(last.families[family].questions for family in group if family in last.families)
    matches = tuple(mean(phase, "exact_match") for phase in results)
    return TableRow(name, matches, mean(last, "blank_exact_match"), mean(last, "majority"), questions)


def table(results: Sequence[PhaseResults]) -> str:
    """Returns a table for the terminal: exact match in percent by family and phase; blank images and majority answer of the last phase."""
    if not results:
        return "no held-out question was answered"
    rows, means = table_rows(results)
    headings = ["family", *(phase.phase for phase in results), "blank", "majority", "questions"]
    lines = [
        [
            row.name,
            *("-" if value is None else percent(value, unit="") for value in (*row.matches, row.blank, row.majority)),
            str(row.questions),
        ]
        for row in (*rows, *means)
    ]
    widths = [max(len(row[place]) for row in [headings, *lines]) for place in range(len(headings))]
    printed = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in [headings, *lines]
    ]
    rule = "-" * len(printed[0])
    families = printed[1 : 1 + len(rows)]
    return "\n".join([printed[0], rule, *families, *([rule, *printed[1 + len(rows) :]] if means else [])])
