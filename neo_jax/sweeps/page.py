"""The page of a sweep: one self-contained HTML file with its table, curves, parallel coordinates and the differences of any two runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html import escape

from neo_jax.config.changes import flat
from neo_jax.evaluation.report import charts, tables
from neo_jax.evaluation.report.figures import short
from neo_jax.evaluation.report.style import STYLE
from neo_jax.evaluation.report.tables import differences, plain_table
from neo_jax.sweeps.choices import SEED
from neo_jax.sweeps.file import Sweep
from neo_jax.sweeps.folder import FAILED, FINISHED
from neo_jax.sweeps.outcomes import Outcome, groups, quantities, varied
from neo_jax.sweeps.table import figure, ranked, said, short_key, shown, spread, text

NAMES = {"heldout": "held-out loss", "loss": "training loss", "exact_match": "exact match"}
BEST = 10
MORE = """
pre { white-space: pre-wrap; font: inherit; color: var(--soft); max-width: 80ch; }
.coordinates { width: 100%; height: 320px; } .coordinates text { font-size: 12px; fill: var(--ink); } .coordinates path { fill: none;
  stroke-width: 1.6; opacity: 0.8; } .coordinates line { stroke: var(--hair); }
"""


def page(sweep: Sweep, runs: Sequence[Outcome], configurations: Callable[[str], str]) -> str:
    """Returns the page.

    Args:
      sweep: the file.
      runs: all runs in the sweep's list.
      configurations: returns the resolved configuration of a run, by name, as JSON.
    """
    sections = [
        (
            "Settings",
            "Means over the finished seeds with 95% intervals (Student's t); differences to the first setting are paired by seed.",
            _settings(runs),
        ),
        ("Curves", "Over the tokens that a run has trained on; a line is one run.", _curves(runs)),
        (
            "Parallel coordinates",
            "Each line is one run, from its settings to what it reached; the best are drawn last.",
            _coordinates(runs),
        ),
        ("Best runs", "By held-out loss, of those that have finished.", _best(runs)),
        ("Failed runs", "They are kept; `retry` launches them again from their last checkpoint.", _failed(runs)),
        ("What differs between two runs", "Every key of their configurations and every figure.", _differences(runs, configurations)),
    ]
    shown_ = "".join(f"<section><h2>{escape(title)}</h2><p>{escape(note)}</p>{body}</section>" for title, note, body in sections if body)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(sweep.name)}</title><style>{STYLE}{tables.STYLE}{MORE}</style></head><body><main><h1>{escape(sweep.name)}</h1>"
        f"<pre>{escape(sweep.question)}</pre>{shown_}</main></body></html>\n"
    )


def _settings(runs: Sequence[Outcome]) -> str:
    every, names = groups(runs), shown(runs)
    keys = [key for key in varied(runs) if key != SEED]
    header = [*map(short_key, keys), "finished", *(title for name in names for title in (NAMES.get(name, name), "- first"))]
    rows = [
        [
            *(text(group.settings.get(key)) for key in keys),
            f"{len(group.finished)} of {len(group.runs)}",
            *(cell for name in names for cell in (spread(group.mean(name)), spread(group.less(every[0], name)) if place else "")),
        ]
        for place, group in enumerate(every)
    ]
    return plain_table(header, rows)


def _curves(runs: Sequence[Outcome]) -> str:
    """Returns a chart a quantity, with the runs of the best settings: as many as there are colours."""
    drawn = []
    best = [group for group, _ in ranked(groups(runs))]
    best += [group for group in groups(runs) if not group.finished]
    styles = {group.runs[0].setting: charts.line_style(place) for place, group in enumerate(best[: charts.MAX_LINES])}
    note = f"The best {len(styles)} of {len(best)} settings." if len(best) > len(styles) else ""
    for quantity in ("heldout", "loss"):
        lines, named = [], set()
        for run in runs:
            points = charts.thin([(x, y) for x, y in run.curves[quantity] if y > 0])
            if points and run.setting in styles:
                name = said({key: value for key, value in run.run.settings.items() if key != SEED})
                lines.append(charts.Line("" if run.setting in named else name, points, styles[run.setting]))
                named.add(run.setting)
        if lines:
            xs, ys = [x for line in lines for x, _ in line.points], [y for line in lines for _, y in line.points]
            x_axis, y_axis = charts.round_axis(0, max(xs)), charts.logarithmic_axis(min(ys), max(ys))
            title = NAMES[quantity].capitalize()
            drawn.append(charts.line_chart(title, note or "Nats a label.", lines, (), x_axis, y_axis, "tokens", wide=True))
    return f'<div class="panels">{"".join(drawn)}</div>' if drawn else ""


def _coordinates(runs: Sequence[Outcome]) -> str:
    """Returns axes side by side: the keys that differ, then what was reached, with a line a run in the colour of its rank by held-out loss."""
    done = [run for run in runs if run.quantities]
    axes = [(key, [run.run.settings.get(key) for run in done]) for key in varied(done)]
    axes += [(name, [run.quantities.get(name) for run in done]) for name in shown(done)]
    if len(done) < 2 or len(axes) < 2:
        return ""
    width, top, bottom = 160 * (len(axes) - 1), 40, 280
    places = [_places(values) for _, values in axes]
    order = sorted(range(len(done)), key=lambda place: -done[place].quantities.get("heldout", math.inf))
    shapes = []
    for number, (name, values) in enumerate(axes):
        x = 80 + 160 * number
        shapes.append(f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        ends = {
            place: text(value) for place, value in zip(places[number], values, strict=True) if place in (0.0, 1.0) and value is not None
        }
        labels = [(18, NAMES.get(name, short_key(name))), *((top - 6 if place else bottom + 16, each) for place, each in ends.items())]
        shapes += [f'<text x="{x}" y="{y}" text-anchor="middle">{escape(label)}</text>' for y, label in labels]
    for rank, place in enumerate(order):
        levels = [(number, level) for number, where in enumerate(places) if (level := where[place]) is not None]
        hue = round(210 * rank / max(1, len(order) - 1))  # the worst red, the best blue
        label = said(done[place].run.settings)
        path = "L".join(f"{80 + 160 * number} {bottom - (bottom - top) * level:.1f}" for number, level in levels)
        shapes.append(f'<path stroke="hsl({hue} 70% 50%)" d="M{path}"><title>{escape(label)}</title></path>')
    size = f'style="min-width:{width + 160}px" viewBox="0 0 {width + 160} 310"'
    return f'<div class="scroll"><svg class="coordinates" {size}>{"".join(shapes)}</svg></div>'


def _places(values: Sequence[object]) -> list[float | None]:
    """Returns where values stand on an axis from 0 to 1: numbers by size (by logarithm over more than a factor of 30), others in their order."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == sum(value is not None for value in values) and numbers:
        low, high = min(numbers), max(numbers)
        scale = math.log if low > 0 and high > 30 * low else float
        if high > low:
            return [
                None if not isinstance(value, int | float) else (scale(value) - scale(low)) / (scale(high) - scale(low)) for value in values
            ]
        return [None if value is None else 0.5 for value in values]
    kinds = list(dict.fromkeys(json.dumps(value) for value in values))
    return [kinds.index(json.dumps(value)) / max(1, len(kinds) - 1) for value in values]


def _best(runs: Sequence[Outcome]) -> str:
    done = sorted(
        (run for run in runs if run.state.status == FINISHED and "heldout" in run.quantities), key=lambda run: run.quantities["heldout"]
    )[:BEST]
    names = shown(done)
    rows = [
        [run.run.name, said(run.run.settings), f"{run.step}/{run.steps}", *(figure(run.quantities.get(name)) for name in names)]
        for run in done
    ]
    return plain_table(["run", "settings", "step", *(NAMES.get(name, name) for name in names)], rows) if rows else ""


def _failed(runs: Sequence[Outcome]) -> str:
    rows = [
        [run.run.name, said(run.run.settings), f"{run.step}/{run.steps}", run.state.reason] for run in runs if run.state.status == FAILED
    ]
    return plain_table(["run", "settings", "step", "reason"], rows) if rows else ""


def _differences(runs: Sequence[Outcome], configurations: Callable[[str], str]) -> str:
    data = []
    for run in runs:
        values = {key: json.dumps(value) for key, value in flat(json.loads(configurations(run.run.name))).items()}
        figures = {NAMES.get(name, name): figure(run.quantities.get(name)) for name in quantities([run])}
        more = {"state": run.state.status, "tokens": short(run.tokens), "tokens/s": figure(run.tokens_per_second)}
        data.append((f"{run.run.index}  {run.run.name}  {said(run.run.settings)}", {**values, **more, **figures}))
    return differences(data)
