"""Charts as inline SVG with labels in HTML, so that plots stretch to any width while text and lines keep their size.

The SVG of a plot has the view box 0 0 1000 1000 and is stretched; y grows downward, as always in SVG.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from html import escape

from neo_jax.evaluation.report.figures import percent, short

SIDE = 1000
BUCKETS = 240  # largest number of points of a line
COLOURS = 8  # number of line colours
MAX_LINES = 2 * COLOURS  # of a figure: each colour solid and dashed


@dataclasses.dataclass(frozen=True)
class Line:
    """A named line.

    Attributes:
      name: for the legend; "": it shows no entry.
      points: (x, y) in data units, x ascending.
      style: CSS classes that give its colour and its dashes, as line_style makes them.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str


@dataclasses.dataclass(frozen=True)
class Band:
    """A stretch of the x axis with a name: one phase."""

    name: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Axis:
    """Maps values to positions from 0 to 1, and names the values with labels.

    Attributes:
      low, high: the ends, in data units (logarithmic: both above 0).
      ticks: values with a label.
      label: formats a value.
      logarithmic: whether the scale is logarithmic.
    """

    low: float
    high: float
    ticks: Sequence[float]
    label: Callable[[float], str]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Returns the position of a value: 0 at `low`, 1 at `high`."""
        if self.high <= self.low:
            return 0.5
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def round_axis(low: float, high: float, wanted: int = 5) -> Axis:
    """Returns a linear axis with at most about `wanted` ticks at round numbers."""
    span = (high - low) or 1.0
    power = 10 ** math.floor(math.log10(span / wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= wanted)
    ticks = [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Axis(low, high, ticks, short)


def logarithmic_axis(low: float, high: float) -> Axis:
    """Returns a logarithmic axis over at least a factor of two, with ticks at 1, 2 and 5 times powers of ten."""
    if high < 2 * low:
        low, high = low / 1.5, high * 1.5
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 200 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return Axis(low, high, [tick for tick in ticks if low <= tick <= high], lambda value: f"{value:g}", logarithmic=True)


def line_style(place: int) -> str:
    """Returns the CSS classes of line number `place`, below MAX_LINES, of a figure; different for each line."""
    return f"series-{1 + place % COLOURS}" + (" dashed" if place >= COLOURS else "")


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Reduces a line to at most BUCKETS points, each the mean over the same number of neighbours."""
    size = math.ceil(len(points) / BUCKETS) if points else 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _drawn(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    places = [(SIDE * x_axis.place(x), SIDE * (1 - y_axis.place(y))) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) + ("h0" if len(places) == 1 else "")  # one point: a round dot
    return f'<path class="line {line.style}" d="{path}"/>'


def line_chart(
    title: str, note: str, lines: Sequence[Line], bands: Sequence[Band], x_axis: Axis, y_axis: Axis, x_name: str, wide: bool = False
) -> str:
    """Returns a figure with lines, phases as named bands, and a legend if there is more than one line.

    Args:
      title, note: title and description.
      lines: at least one, each with at least one point.
      x_name: unit of the x axis.
      wide: whether the figure has the full width of the page.
    """
    shapes = []
    names = []
    for place, band in enumerate(bands):
        start, end = x_axis.place(band.start), x_axis.place(band.end)
        shade = "band" if place % 2 else "band even"
        shapes.append(f'<rect class="{shade}" x="{SIDE * start:.1f}" y="0" width="{SIDE * (end - start):.1f}" height="{SIDE}"/>')
        edge = f'style="left:{_percent(start)};width:{_percent(end - start)}"'
        names.append(f'<span {edge} title="{escape(band.name)}">{escape(band.name)}</span>')
    for tick in y_axis.ticks:
        y = SIDE * (1 - y_axis.place(tick))
        shapes.append(f'<path class="grid" d="M0 {y:.1f}H{SIDE}"/>')
    shapes.extend(_drawn(line, x_axis, y_axis) for line in lines)
    y_labels = "".join(f'<span style="bottom:{_percent(y_axis.place(tick))}">{escape(y_axis.label(tick))}</span>' for tick in y_axis.ticks)
    x_labels = "".join(f'<span style="left:{_percent(x_axis.place(tick))}">{escape(x_axis.label(tick))}</span>' for tick in x_axis.ticks)
    legend = ""
    if len(lines) > 1:
        keys = (f'<li class="dash {line.style}">{escape(line.name)}</li>' for line in lines if line.name)
        legend = f'<ul class="legend">{"".join(keys)}</ul>'
    return (
        f'<figure class="panel{" wide" if wide else ""}"><figcaption><h3>{escape(title)}</h3><p>{escape(note)}</p></figcaption>{legend}'
        f'<div class="bands">{"".join(names)}</div>'
        f'<div class="plot"><div class="y">{y_labels}</div>'
        f'<svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">{"".join(shapes)}</svg>'
        f'</div><div class="x">{x_labels}</div><p class="unit">{escape(x_name)}</p></figure>'
    )


def bar_row(name: str, value: float, interval: tuple[float, float], blank: float, majority: float) -> str:
    """Returns the bars of a family: the model with its interval, blank images, and a tick at the majority answer; values from 0 to 1."""
    low, high = interval
    shares = {"right": value, "blank": blank, "majority": majority, "low": low, "high": high}
    said = ("{name}: {right} right (95% interval {low} to {high}), {blank} with blank images, majority answer {majority}").format(
        name=name, **{key: percent(share) for key, share in shares.items()}
    )
    return (
        f'<div class="bars"><span class="name">{escape(name)}</span>'
        f'<svg height="34" role="img" aria-label="{escape(said)}"><title>{escape(said)}</title>'
        f'<rect class="track" x="0" y="2" width="100%" height="30" rx="4"/>'
        f'<rect class="model" x="0" y="4" width="{_percent(value)}" height="15" rx="3"/>'
        f'<rect class="blank" x="0" y="21" width="{_percent(blank)}" height="9" rx="3"/>'
        f'<line class="whisker" x1="{_percent(low)}" x2="{_percent(high)}" y1="11.5" y2="11.5"/>'
        f'<line class="majority" x1="{_percent(majority)}" x2="{_percent(majority)}" y1="1" y2="33"/></svg>'
        f'<span class="value">{escape(percent(value, 0, unit=""))}<small>%</small></span></div>'
    )
