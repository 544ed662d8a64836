"""The parts of the page on the run itself: hardware and versions, phases, configuration, skipped samples, damaged files."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from html import escape

from neo_jax.evaluation.report.data import PhaseSpan, RunReport, Skipped
from neo_jax.evaluation.report.figures import percent, short, side
from neo_jax.runs.facts import RunFacts

UNKNOWN = "unknown"


def notices(report: RunReport) -> str:
    """Returns the boxes with warnings and problems at the top of the page; "" if there are none."""
    boxes = (
        ("warning", "Held-out samples that training may have seen", report.warnings),
        ("problem", "Not everything of this run could be shown", report.problems),
    )
    return "".join(
        f'<aside class="notice {kind}"><h2>{escape(title)}</h2><ul>{"".join(f"<li>{escape(each)}</li>" for each in sentences)}</ul></aside>'
        for kind, title, sentences in boxes
        if sentences
    )


def facts(report: RunReport) -> str:
    """Returns the list of facts, and the configuration in a collapsed block."""
    start = report.starts[-1] if report.starts else None
    rows = [
        ("Parameters", f"{short(report.parameters)} ({report.parameters:,})" if report.parameters else UNKNOWN),
        ("Hardware", _hardware(report.starts)),
        ("Speed", _speed(report.phases)),
        ("Epochs", ", ".join(f"{name} {epochs:.2f}" for name, epochs in report.epochs.items()) or UNKNOWN),
        ("Commit", (start.commit or f"{UNKNOWN} (not run from a git checkout)") if start else UNKNOWN),
        ("Versions", ", ".join(f"{name} {version}" for name, version in start.versions.items()) if start else UNKNOWN),
        ("Starts", _starts(report.starts)),
    ]
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    folded = f"<details><summary>Configuration</summary><pre>{escape(report.configuration)}</pre></details>" if report.configuration else ""
    return f'<div class="panel"><dl class="facts">{items}</dl>{folded}</div>'


def _hardware(starts: Sequence[RunFacts]) -> str:
    """Returns the hardware of the starts in their order; consecutive starts on the same hardware count once."""
    named = [
        f"{start.device_count:,} x {start.device_kind}" + (f" in {start.processes:,} processes" if start.processes > 1 else "")
        for start in starts
    ]
    changes = [name for place, name in enumerate(named) if place == 0 or named[place - 1] != name]
    return ", then ".join(changes) or UNKNOWN


def _starts(starts: Sequence[RunFacts]) -> str:
    if not starts:
        return UNKNOWN
    first, last = (
        datetime.datetime.fromtimestamp(start.started, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC") for start in (starts[0], starts[-1])
    )
    return f"{first}" if len(starts) == 1 else f"{len(starts):,}, the first {first}, the last {last}"


def _speed(phases: Sequence[PhaseSpan]) -> str:
    measured = [phase for phase in phases if phase.tokens_per_second is not None]
    if not measured:
        return UNKNOWN
    last = measured[-1]
    utilisation = UNKNOWN if last.mfu is None else percent(last.mfu)
    return f"{last.tokens_per_second:,.0f} tokens/s in phase {last.name} (median), MFU {utilisation}"


def phases_table(phases: Sequence[PhaseSpan]) -> str:
    """Returns a table with context, resolution, steps, tokens and speed of each phase."""
    head = "".join(f"<th>{name}</th>" for name in ("", "context", "images", "steps", "tokens", "tokens/s", "MFU"))
    body = "".join(
        f'<tr><th scope="row">{escape(phase.name)}</th>'
        + _cells(
            f"{phase.context:,}",
            side(phase.max_pixels) if phase.max_pixels else "none",
            f"{phase.last_step - phase.first_step + 1:,}",
            short(phase.tokens),
            UNKNOWN if phase.tokens_per_second is None else f"{phase.tokens_per_second:,.0f}",
            UNKNOWN if phase.mfu is None else percent(phase.mfu),
        )
        + "</tr>"
        for phase in phases
    )
    return f'<div class="panel scroll below"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def skipped_table(skipped: Sequence[Skipped]) -> str:
    """Returns a table of skipped samples by source, reason and phase, with the first message of each."""
    if not skipped:
        return '<div class="panel"><p class="soft">The logs name none.</p></div>'
    head = "<th></th>" + "".join(f'<th class="text">{name}</th>' for name in ("source", "reason", "phase"))
    head += '<th>samples</th><th>share</th><th class="text">first message</th>'
    body = "".join(
        f'<tr><th scope="row">{escape(each.part)}</th><td class="text">{escape(each.source)}</td><td class="text">{escape(each.reason)}</td>'
        f'<td class="text">{escape(each.phase) or "-"}</td>'
        + _cells(f"{each.samples:,}", UNKNOWN if each.share is None else percent(each.share))
        + f'<td class="example">{escape(each.example)}</td></tr>'
        for each in skipped
    )
    return f'<div class="panel scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(*texts: str) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)
