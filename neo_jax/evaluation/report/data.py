"""What a run and its evaluations came to: plain data, the summary for programs and the table for the terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

NORMAL_QUANTILE = 1.959964  # of a two-sided 95% interval


@dataclasses.dataclass(frozen=True)
class PhaseSpan:
    """One phase of the curriculum as it was run.

    Attributes:
      name: the phase's name.
      context: tokens of a row.
      max_pixels: most pixels of an image; 0 where the phase reads text only.
      first_step, last_step: its steps, both counted, over the whole run.
      tokens: tokens it trained on.
    """

    name: str
    context: int
    max_pixels: int
    first_step: int
    last_step: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class MetricRow:
    """The metrics of one step.

    Attributes:
      step: over the whole run.
      tokens: tokens trained on up to and with this step.
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
class FamilyResult:
    """How one family of held-out questions was answered; shares from 0 to 1.

    Attributes:
      questions: how many were asked.
      exact_match: share of answers equal to the truth.
      blank_exact_match: the same with every image blank.
      majority: share of the commonest truth: what a constant answer reaches.
    """

    questions: int
    exact_match: float
    blank_exact_match: float
    majority: float

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of exact_match."""
        return wilson_interval(self.exact_match, self.questions)


@dataclasses.dataclass(frozen=True)
class PhaseResults:
    """The held-out results at the end of a phase, by family."""

    phase: str
    families: Mapping[str, FamilyResult]


@dataclasses.dataclass(frozen=True)
class SampleCard:
    """A held-out question with the model's answer; `images` are encoded JPEG, PNG or WebP files (frames of a video too)."""

    family: str
    images: tuple[bytes, ...]
    question: str
    answer: str
    truth: str


@dataclasses.dataclass(frozen=True)
class RunReport:
    """Everything the report shows.

    Attributes:
      title: the page's heading.
      phases: in the order they were run.
      metrics: by ascending step.
      results: in the order of the phases; the last one gives report.json its figures.
      cards: samples after the last phase.
      seconds: time the whole run took.
    """

    title: str
    phases: tuple[PhaseSpan, ...]
    metrics: tuple[MetricRow, ...]
    results: tuple[PhaseResults, ...]
    cards: tuple[SampleCard, ...]
    seconds: float

    def __post_init__(self) -> None:
        if not self.phases or not self.results or not self.results[-1].families:
            raise ValueError("A report needs at least one phase and the results of the last one with at least one family.")


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95% interval of a share of `count` trials (Wilson 1927, "Probable inference, the law of succession, and statistical inference")."""
    if count <= 0:
        raise ValueError(f"An interval needs at least one trial, not {count}.")
    square = NORMAL_QUANTILE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = NORMAL_QUANTILE / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def overall(values: Sequence[float]) -> float:
    """The macro average: every family counts the same."""
    return sum(values) / len(values)


def _family_names(results: Sequence[PhaseResults]) -> list[str]:
    return list(dict.fromkeys(family for phase in results for family in phase.families))


def maps_of(families: Mapping[str, FamilyResult]) -> dict[str, dict[str, float]]:
    """exact_match, blank_exact_match and majority, each from "overall" and every family to its value."""
    maps = {}
    for quantity in ("exact_match", "blank_exact_match", "majority"):
        values = {name: getattr(result, quantity) for name, result in families.items()}
        maps[quantity] = {"overall": overall(list(values.values())), **values}
    return maps


def summary(report: RunReport) -> dict[str, object]:
    """What report.json holds."""
    measured = {results.phase: maps_of(results.families)["exact_match"] for results in report.results}
    phases = [{**dataclasses.asdict(phase), "exact_match": measured.get(phase.name, {})} for phase in report.phases]
    last = report.results[-1].families
    return {"phases": phases, "families": list(last), **maps_of(last), "seconds": report.seconds}


def table_rows(results: Sequence[PhaseResults]) -> list[tuple[str, list[float | None], float | None, float | None, int]]:
    """Rows of the table: family, exact match after each phase, then blank, majority and questions of the last phase; None: not asked."""
    rows = []
    maps = [maps_of(phase.families) for phase in results]
    for name in [*_family_names(results), "overall"]:
        last = maps[-1]
        questions = sum(result.questions for family, result in results[-1].families.items() if name in (family, "overall"))
        matches = [quantities["exact_match"].get(name) for quantities in maps]
        rows.append((name, matches, last["blank_exact_match"].get(name), last["majority"].get(name), questions))
    return rows


def table(results: Sequence[PhaseResults]) -> str:
    """Families x phases for the terminal: exact match in percent beside blank images and the majority answer.

    Args:
      results: at least one; blank images and majority are the last one's.
    """
    headings = ["family", *(phase.phase for phase in results), "blank", "majority", "questions"]
    lines = [
        [name, *("-" if value is None else f"{100 * value:.1f}" for value in (*matches, blank, majority)), str(questions)]
        for name, matches, blank, majority, questions in table_rows(results)
    ]
    widths = [max(len(row[place]) for row in [headings, *lines]) for place in range(len(headings))]
    printed = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in [headings, *lines]
    ]
    rule = "-" * len(printed[0])
    return "\n".join([printed[0], rule, *printed[1:-1], rule, printed[-1]])
