"""The report as one HTML page, without scripts and external files, for phones too, with a dark mode. All texts are escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

from neo_jax.evaluation.published import published
from neo_jax.evaluation.report.charts import (
    MAX_LINES,
    Axis,
    Band,
    Line,
    bar_row,
    line_chart,
    line_style,
    logarithmic_axis,
    round_axis,
    thin,
)
from neo_jax.evaluation.report.data import MetricRow, PhaseResults, RunReport, SampleCard, TableRow, maps_of, table_rows, wilson_interval
from neo_jax.evaluation.report.figures import duration, percent, short, side
from neo_jax.evaluation.report.provenance import facts, notices, phases_table, skipped_table
from neo_jax.evaluation.report.style import STYLE
from neo_jax.runs.benchmarks import BenchmarkScore

BENCHMARK_STEPS = 6  # steps in the table of benchmarks


def _label(family: str) -> str:
    return family.replace("_", " ")


def _last(report: RunReport) -> PhaseResults | None:
    return report.results[-1] if report.results else None


def _tiles(report: RunReport) -> str:
    contexts = [phase.context for phase in report.phases]
    images = [phase.max_pixels for phase in report.phases if phase.max_pixels]
    seconds = "unknown" if report.seconds is None else duration(report.seconds)
    tiles = [
        ("Context", _range(contexts, lambda value: f"{value:,.0f}"), f"tokens a row, over {_count(len(report.phases), 'phase')}"),
        ("Images", _range(images, side) if images else "none", "pixels at most"),
        ("Time", seconds, f"{short(sum(phase.tokens for phase in report.phases))} tokens trained on"),
    ]
    if last := _last(report):
        maps = maps_of(last.families)
        match, blank, majority = (maps[name]["overall"] for name in ("exact_match", "blank_exact_match", "majority"))
        questions = sum(result.questions for result in last.families.values())
        mean = f"mean over {len(last.families)} families" if len(last.families) > 1 else "of one family"
        tiles = [
            ("Exact match", percent(match), f"of {questions:,} held-out questions, {mean}, after phase {last.phase}"),
            ("With blank images", percent(blank), f"{100 * (match - blank):+.1f} points from seeing"),
            ("Majority answer", percent(majority), "what the most frequent answer reaches"),
            *tiles,
        ]
    parts = (
        f"<div{' class=first' if place == 0 and last else ''}><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for place, (name, value, note) in enumerate(tiles)
    )
    return f'<dl class="tiles">{"".join(parts)}</dl>'


def _range(values: Sequence[float], shown) -> str:
    low, high = shown(min(values)), shown(max(values))
    return low if low == high else f"{low} → {high}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _by_source(metrics: Sequence[MetricRow], quantity: str) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for row in metrics:
        for source, loss in getattr(row, quantity).items():
            if math.isfinite(loss) and loss > 0:
                points.setdefault(source, []).append((row.tokens, loss))
    return points


def _loss_charts(report: RunReport) -> str:
    points = [(row.tokens, row.loss) for row in report.metrics if math.isfinite(row.loss) and row.loss > 0]
    if not points:
        return ""
    ends = [0]
    for phase in report.phases:
        ends.append(ends[-1] + phase.tokens)
    bands = [Band(phase.name, start, end) for phase, start, end in zip(report.phases, ends[:-1], ends[1:], strict=True)]
    x_axis = round_axis(0, max(ends[-1], points[-1][0]))
    training = [Line("training", thin(points), line_style(0))]
    charts = [("Loss", "Training loss in nats a token, on a logarithmic scale.", training)]
    for quantity, title, note in (
        ("source_losses", "Training loss by source", "Each source of the mixture by itself."),
        ("held_out_losses", "Held-out loss by source", "On samples of the held-out sources."),
    ):
        sources = list(_by_source(report.metrics, quantity).items())
        for first in range(0, len(sources), MAX_LINES):
            group = sources[first : first + MAX_LINES]
            lines = [Line(name, thin(values), line_style(place)) for place, (name, values) in enumerate(group)]
            named = title if len(sources) <= MAX_LINES else f"{title}, {first + 1} to {first + len(group)} of {len(sources)}"
            charts.append((named, note, lines))
    figures = []
    for title, note, lines in charts:
        values = [y for line in lines for _, y in line.points]
        y_axis = logarithmic_axis(min(values), max(values))
        figures.append(line_chart(title, note, lines, bands, x_axis, y_axis, "tokens trained on", wide=lines is training))
    return "".join(figures)


def _growth_charts(report: RunReport) -> str:
    bands = [Band(phase.name, phase.first_step - 1, phase.last_step) for phase in report.phases]
    x_axis = round_axis(bands[0].start, bands[-1].end)
    figures = []
    for title, note, values, label in (
        ("Context length", "Tokens a packed row holds.", [phase.context for phase in report.phases], lambda value: f"{value:,.0f}"),
        ("Resolution", "Most pixels of an image.", [phase.max_pixels for phase in report.phases], side),
    ):
        points = [(x, value) for band, value in zip(bands, values, strict=True) for x in (band.start, band.end)]
        y_axis = Axis(0, max(values) * 1.12 or 1, _apart(sorted(set(values)), max(values)), label)
        figures.append(line_chart(title, note, [Line(title, points, line_style(0))], bands, x_axis, y_axis, "steps"))
    return "".join(figures)


def _apart(values: Sequence[float], largest: float) -> list[float]:
    """Returns the values without those whose labels would overlap that of the next larger value."""
    kept: list[float] = []
    for value in reversed(values):
        if not kept or kept[-1] - value > 0.07 * largest:
            kept.append(value)
    return kept[::-1]


def _accuracy(results: PhaseResults) -> str:
    rows = []
    for name, result in sorted(results.families.items(), key=lambda pair: -pair[1].exact_match):
        interval = wilson_interval(result.exact_match, result.questions)
        rows.append(bar_row(_label(name), result.exact_match, interval, result.blank_exact_match, result.majority))
    legend = (
        '<ul class="legend"><li class="block of-model">model, with its 95% interval</li>'
        '<li class="block of-blank">the same model, blank images</li><li class="mark of-majority">majority answer</li></ul>'
    )
    return f'<div class="panel">{legend}{"".join(rows)}</div>'


def _results_table(report: RunReport) -> str:
    rows, means = table_rows(report.results)
    headings = "".join(f"<th>{escape(phase.phase)}</th>" for phase in report.results)
    head = f'<tr><th></th>{headings}<th class="gap">blank</th><th>majority</th><th>questions</th></tr>'
    body = "".join(_results_row(row, "") for row in rows) + "".join(_results_row(row, ' class="overall"') for row in means)
    return f'<div class="panel scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _benchmarks_table(scores: Sequence[BenchmarkScore]) -> str:
    """Returns the scores by benchmark and step, the last steps alone, with the published ones."""
    steps = sorted({score.step for score in scores})[-BENCHMARK_STEPS:]
    found = {(score.name, score.step): score.overall for score in scores}
    last = {score.name: score for score in scores}
    body = ""
    for name, score in last.items():
        kind = f"{score.benchmark}, {score.preset}" if score.benchmark else "own rows"
        values = [found.get((name, step)) for step in steps]
        theirs = published().get(score.benchmark, {})
        cells = [
            *("-" if value is None else f"{value:.1f}" for value in values),
            *(f"{theirs[size]:.1f}" if size in theirs else "-" for size in ("2B", "9B")),
            f"{score.questions:,}",
        ]
        body += f'<tr><th scope="row">{escape(name)} ({escape(kind)})</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    headings = [*(f"step {step:,}" for step in steps), "published 2B", "published 9B", "questions"]
    head = f"<tr><th></th>{''.join(f'<th>{heading}</th>' for heading in headings)}</tr>"
    return f'<div class="panel scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _results_row(row: TableRow, kind: str) -> str:
    cells = [
        '<td class="none">-</td>'
        if value is None
        else f'<td class="heat" style="--share:{0.05 + 0.4 * value:.2f}">{escape(percent(value, unit=""))}</td>'
        for value in row.matches
    ]
    blank, majority = ("-" if value is None else percent(value, unit="") for value in (row.blank, row.majority))
    beside = f'<td class="gap">{escape(blank)}</td><td>{escape(majority)}</td><td>{row.questions:,}</td>'
    return f'<tr{kind}><th scope="row">{escape(_label(row.name))}</th>{"".join(cells)}{beside}</tr>'


def _image_source(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _card(card: SampleCard) -> str:
    right = card.answer.strip() == card.truth.strip()
    count = len(card.images)
    images = "".join(
        f'<img src="{_image_source(data)}" alt="{escape(card.family)}, image {place + 1}">' for place, data in enumerate(card.images)
    )
    told, _, asked = card.question.rpartition("\n")
    text_only = bool(told) and not images and not card.note  # the text before the question is shown in the place of the images
    media = f'<p class="told">{escape(told)}</p>' if text_only else images
    question = asked if text_only else card.question
    note = f'<p class="note">{escape(card.note)}</p>' if card.note else ""
    verdict = (
        f'<span class="right">✓ {escape(card.answer)}</span>'
        if right
        else f'<span class="wrong">✗ {escape(card.answer) or "(nothing)"}</span>'
    )
    return (
        f'<article class="card"><div class="media {f"n{count}" if count <= 4 else "many"}">{media}{note}</div><div class="said">'
        f'<span class="family">{escape(_label(card.family))}</span><span class="question">{escape(question)}</span>'
        f'<span class="answer">{verdict}</span><span class="truth">truth: {escape(card.truth)}</span></div></article>'
    )


def _sections(report: RunReport) -> list[tuple[str, str, str]]:
    """Returns title, description and HTML content of each section, in order."""
    sections = []
    if last := _last(report):
        sentence = f"After phase {last.phase}, by greedy decoding; an answer counts when it equals the truth."
        sections.append(("Accuracy by family", sentence, _accuracy(last)))
    charts = f'<div class="panels">{_loss_charts(report)}{_growth_charts(report)}</div>'
    sections.append(("Training", "Shaded bands are the phases.", charts))
    if last:
        sentence = (
            "Exact match in percent at the end of each phase; blank images, majority and questions are of the last. A mean is over the same "
            "families in every phase: a phase that was not asked all of them has none."
        )
        sections.append(("Families and phases", sentence, _results_table(report)))
    if report.benchmarks:
        sentence = "After the last steps at which they were asked; the published scores are those of NEO-ov's authors."
        sections.append(("Benchmarks", sentence, _benchmarks_table(report.benchmarks)))
    sections.append(("The run", "What was trained, on what, and from which code.", facts(report) + phases_table(report.phases)))
    sections.append(
        (
            "Samples that were not used",
            "By source and reason, from the logs in the run directory; shares are of the source's samples.",
            skipped_table(report.skipped),
        )
    )
    if report.cards:
        cards = "".join(_card(card) for card in report.cards)
        sections.append(
            ("Samples", "The first held-out questions of each family as the model answered them.", f'<div class="cards">{cards}</div>')
        )
    return sections


def page(report: RunReport) -> str:
    """Returns the report as one HTML page."""
    phases = " → ".join(phase.name for phase in report.phases)
    body = "".join(
        f"<section><h2>{escape(title)}</h2><p>{escape(note)}</p>{content}</section>" for title, note, content in _sections(report)
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head><body><main><header><h1>{escape(report.title)}</h1>"
        f'<p class="lead">{escape(phases)}</p></header>{notices(report)}{_tiles(report)}{body}</main></body></html>\n'
    )
