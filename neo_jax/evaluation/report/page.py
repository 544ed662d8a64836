"""The report as one HTML page: no scripts, no outside files, readable on a phone, light and dark."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

from neo_jax.evaluation.report.charts import Axis, Band, Line, bar_row, line_chart, logarithmic_axis, round_axis, short, thin
from neo_jax.evaluation.report.data import MetricRow, RunReport, SampleCard, maps_of, table_rows
from neo_jax.evaluation.report.style import STYLE

SERIES = 6  # colours of lines
IMAGE_TYPES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"RIFF", "image/webp"))


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d} min"


def _label(family: str) -> str:
    return family.replace("_", " ")


def _side(max_pixels: float) -> str:
    return f"{math.isqrt(round(max_pixels))}²" if max_pixels else "text"


def _tiles(report: RunReport) -> str:
    maps = maps_of(report.results[-1].families)
    match, blank, majority = (maps[name]["overall"] for name in ("exact_match", "blank_exact_match", "majority"))
    contexts = [phase.context for phase in report.phases]
    images = [phase.max_pixels for phase in report.phases if phase.max_pixels]
    questions = sum(result.questions for result in report.results[-1].families.values())
    tiles = [
        ("Exact match", f"{match:.1%}", f"of {questions:,} held-out questions, mean over {len(report.results[-1].families)} families"),
        ("With blank images", f"{blank:.1%}", f"{100 * (match - blank):+.1f} points from seeing"),
        ("Majority answer", f"{majority:.1%}", "what guessing the likeliest gives"),
        ("Context", f"{min(contexts):,} → {max(contexts):,}", f"tokens a row, over {len(report.phases)} phases"),
        ("Images", f"{_side(min(images))} → {_side(max(images))}" if images else "none", "pixels at most"),
        ("Time", _time(report.seconds), f"{short(sum(phase.tokens for phase in report.phases))} tokens"),
    ]
    parts = (
        f"<div{' class=first' if place == 0 else ''}><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for place, (name, value, note) in enumerate(tiles)
    )
    return f'<dl class="tiles">{"".join(parts)}</dl>'


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
    training = [Line("training", thin(points), "series-1")]
    charts = [("Loss", "Training loss in nats a token, on a logarithmic scale.", training)]
    for quantity, title, note in (
        ("source_losses", "Training loss by source", "Each source of the mixture by itself."),
        ("held_out_losses", "Held-out loss by source", "Measured on scenes that training never saw."),
    ):
        sources = _by_source(report.metrics, quantity)
        lines = [Line(name, thin(values), f"series-{1 + place % SERIES}") for place, (name, values) in enumerate(sources.items())]
        if lines:
            charts.append((title, note, lines))
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
        ("Resolution", "Most pixels of an image.", [phase.max_pixels for phase in report.phases], _side),
    ):
        points = [(x, value) for band, value in zip(bands, values, strict=True) for x in (band.start, band.end)]
        y_axis = Axis(0, max(values) * 1.12 or 1, _apart(sorted(set(values)), max(values)), label)
        figures.append(line_chart(title, note, [Line(title, points, "series-1")], bands, x_axis, y_axis, "steps"))
    return "".join(figures)


def _apart(values: Sequence[float], largest: float) -> list[float]:
    """The values, less those whose labels would overlap the next larger one's."""
    kept: list[float] = []
    for value in reversed(values):
        if not kept or kept[-1] - value > 0.07 * largest:
            kept.append(value)
    return kept[::-1]


def _accuracy(report: RunReport) -> str:
    families = report.results[-1].families
    rows = []
    for name, result in sorted(families.items(), key=lambda pair: -pair[1].exact_match):
        rows.append(bar_row(_label(name), result.exact_match, result.interval, result.blank_exact_match, result.majority))
    legend = (
        '<ul class="legend"><li class="block of-model">model, with its 95% interval</li>'
        '<li class="block of-blank">the same model, blank images</li><li class="mark of-majority">majority answer</li></ul>'
    )
    return f'<div class="panel">{legend}{"".join(rows)}</div>'


def _results_table(report: RunReport) -> str:
    headings = "".join(f"<th>{escape(phase.phase)}</th>" for phase in report.results)
    body = []
    for name, matches, blank, majority, questions in table_rows(report.results):
        cells = [
            "<td>-</td>" if value is None else f'<td class="heat" style="--share:{0.05 + 0.4 * value:.2f}">{100 * value:.1f}</td>'
            for value in matches
        ]
        rest = ["-" if value is None else f"{100 * value:.1f}" for value in (blank, majority)]
        kind = ' class="overall"' if name == "overall" else ""
        beside = f'<td class="gap">{rest[0]}</td><td>{rest[1]}</td><td>{questions:,}</td>'
        body.append(f'<tr{kind}><th scope="row">{escape(_label(name))}</th>{"".join(cells)}{beside}</tr>')
    head = f'<tr><th></th>{headings}<th class="gap">blank</th><th>majority</th><th>questions</th></tr>'
    return f'<div class="panel scroll"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


def _image_source(data: bytes) -> str:
    for signature, media_type in IMAGE_TYPES:
        if data.startswith(signature):
            return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    raise ValueError(f"A card's image is neither JPEG, PNG nor WebP (it begins with {data[:8]!r}).")


def _card(card: SampleCard) -> str:
    right = card.answer.strip() == card.truth.strip()
    count = len(card.images)
    images = "".join(
        f'<img src="{_image_source(data)}" alt="{escape(card.family)}, image {place + 1}">' for place, data in enumerate(card.images)
    )
    told, _, asked = card.question.rpartition("\n")
    media = images or f'<p class="told">{escape(told)}</p>'
    question = card.question if images or not told else asked
    verdict = (
        f'<span class="right">✓ {escape(card.answer)}</span>'
        if right
        else f'<span class="wrong">✗ {escape(card.answer) or "(nothing)"}</span>'
    )
    return (
        f'<article class="card"><div class="media {f"n{count}" if count <= 4 else "many"}">{media}</div><div class="said">'
        f'<span class="family">{escape(_label(card.family))}</span><span class="question">{escape(question)}</span>'
        f'<span class="answer">{verdict}</span><span class="truth">truth: {escape(card.truth)}</span></div></article>'
    )


def page(report: RunReport) -> str:
    """The report as one HTML page without scripts or outside files."""
    phases = ", ".join(phase.name for phase in report.phases)
    sections = [
        ("Accuracy by family", "After the last phase, by greedy decoding; an answer counts when it equals the truth.", _accuracy(report)),
        ("Training", "Shaded bands are the phases.", f'<div class="panels">{_loss_charts(report)}{_growth_charts(report)}</div>'),
        ("Families and phases", "Exact match in percent at the end of each phase.", _results_table(report)),
    ]
    if report.cards:
        cards = "".join(_card(card) for card in report.cards)
        sections.append(("Samples", "Held-out questions as the model answered them.", f'<div class="cards">{cards}</div>'))
    body = "".join(f"<section><h2>{escape(title)}</h2><p>{escape(note)}</p>{content}</section>" for title, note, content in sections)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head><body><main><header><h1>{escape(report.title)}</h1>"
        f'<p class="lead">{escape(phases)}</p></header>{_tiles(report)}{body}</main></body></html>\n'
    )
