"""The model card of an exported run: what it was trained on, how, and what it scored."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from neo_jax.places import RunPlace
from neo_jax.runs.benchmarks import read_benchmarks
from neo_jax.runs.evaluations import EvaluationRecord, read_evaluations
from neo_jax.runs.facts import read_facts
from neo_jax.runs.metrics import StepRecord, read_records


def model_card(place: RunPlace, dtype: str) -> str:
    """Returns the card as Markdown."""
    settings, record = place.settings, place.found.record
    steps = [each for each in read_records(place.found.run / "metrics.jsonl")[0] if each.step <= record.position.step]
    begun = settings.phases[: record.position.phase + 1]
    parts = [
        "---\nlibrary_name: neo_jax\n---",
        f"# {place.found.run.name}",
        f"{'A NEO-ov' if place.architecture == 'neo' else 'A Qwen3'} of {settings.model.parameters():,} parameters, stored as {dtype}, trained with "
        f"neo_jax: the state after step {record.position.step:,}, in phase {place.phase.name}, and {record.tokens:,} tokens.",
        _commit(place.found.run),
        f"It began from `{settings.run.initial}`." if settings.run.initial else "It began from random parameters.",
        "## Phases\n\n"
        + _table(
            ("phase", "architecture", "trains", "steps", "rows a step", "context", "largest image, pixels", "learning rate", "mixture"),
            [
                (
                    *(phase.name, phase.architecture, phase.trains),
                    f"{min(phase.steps, record.position.phase_step) if phase is begun[-1] else phase.steps:,}",
                    f"{phase.rows_per_step:,}",
                    *(f"{phase.context:,}", f"{phase.max_pixels:,}", f"{phase.learning_rate:g}"),
                    ", ".join(f"{name} {weight:g}" for name, weight in phase.mixture.items() if weight),
                )
                for phase in begun
            ],
        ),
        "## Sources\n\n"
        + _table(
            ("source", "format", "pictures", "epochs", "digest of its content"),
            [
                (name, source.format, source.pictures, _epochs(steps, name), record.data.get(f"source {name}", "")[:16])
                for name, source in settings.data.sources.items()
            ],
        ),
        _heldout(steps),
        _scores(place.found.run, [phase.name for phase in begun]),
        _benchmarks(place),
        "## Configuration\n\n```json\n" + json.dumps(record.configuration, indent=1) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _commit(run: pathlib.Path) -> str:
    starts, _ = read_facts(run)
    if not starts:
        return ""
    last = starts[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last.versions.items())
    return f"Code: {last.commit or 'not from a git checkout'}; {last.device_count} x {last.device_kind}; {versions}."


def _epochs(steps: list[StepRecord], source: str) -> str:
    return f"{steps[-1].epochs.get(source, 0):.2f}" if steps else ""


def _heldout(steps: list[StepRecord]) -> str:
    measured = [each for each in steps if each.heldout_loss]
    if not measured:
        return ""
    last = measured[-1]
    rows = [(name, f"{loss:.4f}") for name, loss in (last.heldout_loss or {}).items()]
    return f"## Held-out losses after step {last.step:,}\n\n" + _table(("source", "nats per label"), rows)


def _scores(run: pathlib.Path, phases: list[str]) -> str:
    records: list[EvaluationRecord] = [each for each in read_evaluations(run)[0] if each.phase in phases and each.scores]
    if not records:
        return ""
    last = records[-1]
    rows = [
        (family, str(result.questions), f"{100 * result.exact_match:.1f}", f"{100 * result.blank_exact_match:.1f}")
        for family, result in last.scores.items()
    ]
    return f"## Held-out questions after phase {last.phase}\n\n" + _table(
        ("family", "questions", "exact match, %", "with blank images, %"), rows
    )


def _benchmarks(place: RunPlace) -> str:
    until = place.found.record.position.step
    last = {each.name: each for each in read_benchmarks(place.found.run)[0] if each.step <= until}
    if not last:
        return ""
    rows = [
        (
            each.name,
            f"{each.benchmark} ({each.preset})" if each.benchmark else "own rows",
            f"{each.step:,}",
            f"{each.questions:,}",
            f"{each.overall:.1f}",
        )
        for each in last.values()
    ]
    return "## Benchmarks\n\n" + _table(("name", "benchmark", "after step", "questions", "score, %"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
