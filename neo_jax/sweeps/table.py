"""The tables of a sweep for the terminal: where its runs are, and its results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from neo_jax.evaluation.report.figures import duration
from neo_jax.sweeps.choices import Settings
from neo_jax.sweeps.folder import RUNNING
from neo_jax.sweeps.outcomes import Group, Mean, Outcome, groups, quantities, varied

MAIN = ("heldout", "exact_match", "loss")  # quantities of the table; benchmarks follow


def status_table(runs: Sequence[Outcome]) -> str:
    """Returns a line for each run: state, step, losses, speed, time left, and the settings that differ."""
    keys = varied(runs)
    header = ["index", "run", "state", "step", "loss", "heldout", "tokens/s", "time", "left", *map(short_key, keys)]
    lines = [
        [
            str(run.run.index),
            run.run.name,
            run.state.status,
            f"{run.step}/{run.steps}",
            figure(run.quantities.get("loss")),
            figure(run.quantities.get("heldout")),
            figure(run.tokens_per_second),
            duration(run.seconds) if run.seconds else "",
            _left(run),
            *(text(run.run.settings.get(key)) for key in keys),
            f"  {run.state.reason}" if run.state.reason else "",
        ]
        for run in runs
    ]
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.state.status] = counts.get(run.state.status, 0) + 1
    return aligned([[*header, ""], *lines]) + "\n" + ", ".join(f"{count} {status}" for status, count in counts.items())


def results_table(runs: Sequence[Outcome]) -> str:
    """Returns a line for each setting: means over its finished seeds with 95% intervals, and the paired differences to the first setting."""
    every = groups(runs)
    names = shown(runs)
    keys = [key for key in varied(runs) if any(key in group.settings for group in every)]
    header = ["setting", *map(short_key, keys), "finished", *names, *(f"{name} - first" for name in names if len(every) > 1)]
    lines = []
    for place, group in enumerate(every):
        differences = [spread(group.less(every[0], name)) if place else "" for name in names if len(every) > 1]
        seeds = f"{len(group.finished)} of {len(group.runs)}"
        lines.append(
            [
                str(place),
                *(text(group.settings.get(key)) for key in keys),
                seeds,
                *(spread(group.mean(name)) for name in names),
                *differences,
            ]
        )
    note = "heldout and loss: nats a label, less is better. exact_match: share of the questions. ±: 95% interval over seeds."
    return aligned([header, *lines]) + "\n" + note


def shown(runs: Sequence[Outcome]) -> list[str]:
    """Returns the quantities that tables show: the main ones and benchmarks, where any run has them."""
    found = quantities(runs)
    return [name for name in (*MAIN, *(name for name in found if name.startswith("benchmark/"))) if name in found]


def ranked(every: Sequence[Group], quantity: str = "heldout") -> list[tuple[Group, Mean]]:
    """Returns the settings that have a quantity, those with the least mean first."""
    have = [(group, value) for group in every if (value := group.mean(quantity))]
    return sorted(have, key=lambda each: each[1].mean)


def text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def short_key(key: str) -> str:
    """Returns the end of a dotted key, with its phase: phases.*.learning_rate is learning_rate, phases.sft.learning_rate sft.learning_rate."""
    phase, end = _phase_and_end(key)
    return f"{phase}.{end}" if phase else end


def said(settings: Settings) -> str:
    """Returns settings in a few words: "context 512, segments 32 in pretrain and mid; seed 0"."""
    phases: dict[tuple[str, str], list[str]] = {}  # of each end of a key and value
    for key, value in settings.items():
        phase, end = _phase_and_end(key)
        phases.setdefault((end, text(value)), []).append(phase)
    parts: dict[tuple[str, ...], list[str]] = {}  # of each group of phases
    for (end, value), names in phases.items():
        parts.setdefault(tuple(names), []).append(f"{end} {value}")
    return "; ".join(_in_phases(", ".join(each), names) for names, each in parts.items()) or "as the configuration"


def _in_phases(words: str, names: Sequence[str]) -> str:
    return words + (f" in {' and '.join(names)}" if any(names) else "")


def _phase_and_end(key: str) -> tuple[str, str]:
    """Returns the phase that a key is of, "" if of none or of all, and the key's end."""
    section, _, rest = key.partition(".")
    phase = rest.partition(".")[0]
    return phase if section == "phases" and phase != "*" else "", key.rpartition(".")[2]


def figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def spread(value: Mean | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:.4f}" + (f" ± {value.half:.4f}" if math.isfinite(value.half) else "")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _left(run: Outcome) -> str:
    """Returns the time that a run still needs at the speed it has had, evaluations and starts included."""
    if run.state.status != RUNNING or not run.step or not run.seconds:
        return ""
    return duration(run.seconds / run.step * (run.steps - run.step))
