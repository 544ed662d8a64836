"""Writes what the records of a sweep say as a document and a chart beside them: RECORDS/NAME.md and RECORDS/NAME.svg.

    python -m neo_jax.sweeps.document configs/sweeps/mask.py

Settings are compared with the first one of the file, over equal seeds. Nothing is written by hand: a test keeps the documents as the records are.
"""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Sequence
from html import escape

from data_pipelines.storage import write_whole
from neo_jax.config import ConfigError
from neo_jax.exit_codes import CONFIGURATION, DONE
from neo_jax.sweeps.file import Sweep, read_sweep
from neo_jax.sweeps.folder import Listed
from neo_jax.sweeps.outcomes import Group, Mean, Outcome, groups
from neo_jax.sweeps.records import Records
from neo_jax.sweeps.table import said, spread

MAIN = (("heldout", "held-out loss", True), ("exact_match", "exact match", False))  # quantity, name, whether less is better
ROW, LEFT, WIDTH = 30, 230, 640  # pixels of the chart


def document(sweep: Sweep, name: str, runs: Sequence[Outcome]) -> str:
    """Returns the document as Markdown.

    Args:
      sweep: the file.
      name: path of the file, as a reader types it.
      runs: the recorded ones.
    """
    every = groups(runs)
    question, _, rest = sweep.question.partition("\n")
    lines = [f"# {question}", "", *_paragraphs(rest), ""]
    lines += [
        f"Written by `python -m neo_jax.sweeps.document {name}` from the records in this folder: {len(runs)} of {len(sweep.runs)} runs.",
        "",
    ]
    missing = [run for run in sweep.runs if run.name not in {each.run.name for each in runs}]
    if missing:
        lines += ["Not finished: " + "; ".join(said(run.settings) for run in missing) + ".", ""]
    lines += [
        "## What the runs say",
        "",
        f"Against the first setting, {said(every[0].settings)}:",
        "",
        *_verdicts(every),
        "",
        f"![Differences to the first setting]({sweep.name}.svg)",
        "",
    ]
    header = ["setting", "seeds", *(cell for _, title, _ in MAIN for cell in (title, "difference"))]
    rows = [[said(group.settings), str(len(group.finished)), *_cells(group, every[0])] for group in every]
    lines += [*_table(header, rows), ""]
    lines += [
        "Held-out loss: nats a label, mean over the held-out sources; less is better. Exact match: share of the questions. Differences are to the "
        "first setting, over equal seeds. ±: 95% interval over seeds (Student's t).",
        "",
        "## In parts",
        "",
    ]
    for prefix, title in (*((prefix, title) for prefix, title, _ in MAIN), ("exact_match_after", "exact match after")):
        names = [name for name in runs[0].quantities if name.startswith(f"{prefix}/")] if runs else []
        if names:
            header = [title, *(name.partition("/")[2] for name in names)]
            rows = [[said(group.settings), *(_short(group.mean(name)) for name in names)] for group in every]
            lines += [*_table(header, rows), ""]
    return "\n".join(lines)


def chart(sweep: Sweep, runs: Sequence[Outcome]) -> str:
    """Returns an SVG with a panel for each main quantity: the differences of each setting to the first, a dot a seed, with their interval."""
    first, *others = groups(runs)
    height = ROW * (len(others) + 2)
    shapes, top = [], 0
    for quantity, title, less in MAIN:
        points = [(group, group.differences(first, quantity), group.less(first, quantity)) for group in others]
        values = [abs(value) for _, dots, mean in points for value in (*dots, *_ends(mean))]
        reach = 1.1 * max(values, default=1.0) or 1.0
        better = "left" if less else "right"
        shapes.append(
            f'<text x="10" y="{top + 20}" font-weight="bold">{escape(title)}, difference to "{escape(said(first.settings))}"</text>'
        )
        shapes.append(f'<text x="{LEFT + WIDTH}" y="{top + 20}" text-anchor="end">{better} is better; edges at ±{reach:.3g}</text>')
        middle = LEFT + WIDTH / 2
        shapes.append(f'<path d="M{middle} {top + ROW}V{top + height - ROW / 2}" stroke="#888"/>')
        for number, (group, dots, mean) in enumerate(points):
            y = top + ROW * (number + 1) + ROW / 2
            shapes.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(said(group.settings))}</text>')
            if mean and math.isfinite(mean.half):
                low, high = (middle + WIDTH / 2 * value / reach for value in _ends(mean))
                shapes.append(f'<path d="M{low:.1f} {y}H{high:.1f}" stroke="#4a7ebb" stroke-width="7" opacity="0.45"/>')
            if mean:
                shapes.append(f'<path d="M{middle + WIDTH / 2 * mean.mean / reach:.1f} {y - 8}v16" stroke="#1b4f8f" stroke-width="3"/>')
            shapes += [f'<circle cx="{middle + WIDTH / 2 * value / reach:.1f}" cy="{y}" r="3.5" fill="#1b4f8f"/>' for value in dots]
        top += height
    size = f'width="{LEFT + WIDTH + 20}" height="{top}" viewBox="0 0 {LEFT + WIDTH + 20} {top}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">{"".join(shapes)}</svg>\n'


def recorded(sweep: Sweep) -> list[Outcome]:
    """Returns the runs of a sweep's file that are recorded, in its order. Raises ConfigError if it has no RECORDS or none is there."""
    if sweep.records is None:
        raise ConfigError([f"the sweep {sweep.name} keeps no records: set RECORDS in its file"])
    if sweep.search:
        raise ConfigError([f"the sweep {sweep.name} chooses its settings as results come: results shows them; a document needs sweep()"])
    records = Records(sweep.records, sweep.name)
    runs = [records.outcome(Listed(index, run.name, run.settings)) for index, run in enumerate(sweep.runs) if run.name in records]
    if not runs:
        raise ConfigError([f"{sweep.records} has no record of a run of {sweep.name}: run the sweep first"])
    return runs


def _verdicts(every: Sequence[Group]) -> list[str]:
    """Returns a sentence for each setting and main quantity: whether it differs from the first one beyond chance."""
    first, *others = every
    lines = []
    for group in others:
        for quantity, title, less in MAIN:
            found = group.less(first, quantity)
            if found is None:
                continue
            if not math.isfinite(found.half):
                verdict = "one seed says nothing about chance"
            elif abs(found.mean) <= found.half:
                verdict = "the interval includes zero: no difference is shown"
            else:
                verdict = "worse" if (found.mean > 0) == less else "better"
            lines.append(f"- **{said(group.settings)}**, {title}: {_signed(found)} ({verdict}).")
    return lines


def _cells(group: Group, first: Group) -> list[str]:
    return [
        cell
        for quantity, _, _ in MAIN
        for cell in (spread(group.mean(quantity)), "" if group is first else _signed(group.less(first, quantity)))
    ]


def _ends(mean: Mean | None) -> tuple[float, ...]:
    return (mean.mean - mean.half, mean.mean + mean.half) if mean and math.isfinite(mean.half) else ()


def _signed(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.mean:+.4f}" + (f" ± {mean.half:.4f}" if math.isfinite(mean.half) else "")


def _short(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.mean:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(each)} |" for each in (header, ["---"] * len(header), *rows)]


def _paragraphs(text: str) -> list[str]:
    """Returns the lines of a docstring's rest; an indented command becomes a block of code."""
    lines: list[str] = []
    for line in text.strip("\n").splitlines():
        lines += ["```sh", line.strip(), "```"] if line.startswith("    ") else [line]
    return lines


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m neo_jax.sweeps.document configs/sweeps/FILE.py", file=sys.stderr)
        return CONFIGURATION
    try:
        sweep = read_sweep(arguments[0], pathlib.Path("runs/sweeps"))
        runs = recorded(sweep)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIGURATION
    assert sweep.records is not None
    for suffix, contents in ((".md", document(sweep, arguments[0], runs)), (".svg", chart(sweep, runs))):
        path = sweep.records / f"{sweep.name}{suffix}"
        write_whole(path, contents)
        print(path)
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
