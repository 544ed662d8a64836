"""Shows a plan as a table, and as a chart of memory by phase."""

from __future__ import annotations

from html import escape

from rich.console import Console
from rich.table import Table

from neo_jax.chips import GIB, Chip
from neo_jax.planning import roofline
from neo_jax.planning.plan import Plan

PARTS = ("parameters", "optimizer", "batch", "activations")
COLOURS = {"parameters": "#4269d0", "optimizer": "#efb118", "batch": "#6cc5b0", "activations": "#ff725c"}


def show(plan: Plan, console: Console) -> None:
    """Prints a plan: one table for all phases, their collectives, and the formulas."""
    table = Table(title=f"{plan.config} on {plan.hardware.name}: {plan.hardware.devices} devices")
    for column in ("", *(phase.phase for phase in plan.phases)):
        table.add_column(column, justify="left" if not column else "right")
    for label, text in _LINES:
        known = label in _KNOWN_WITHOUT_PROGRAM or "mesh" in label
        table.add_row(label, *(text(phase) if known or not phase.error else "-" for phase in plan.phases))
    console.print(table)
    for phase in plan.phases:
        for problem in filter(None, (phase.error, phase.evaluation_problem)):
            console.print(f"{phase.phase}: {problem}", markup=False)
        if phase.error:
            continue
        sent = Table(title=f"{phase.phase}: collectives of a step, bytes of one device")
        for column in ("kind", "over", "times", "GiB", "hidden", "seconds"):
            sent.add_column(column, justify="left" if column in ("kind", "over") else "right")
        for line in phase.collectives:
            values = (line.kind, " and ".join(line.axes), f"{line.count:,}", f"{line.bytes / GIB:.2f}")
            sent.add_row(*values, f"{line.hidden:.0%}", f"{line.seconds:.4f}")
        console.print(sent)
    console.print((roofline.__doc__ or "").partition("\n\n")[2].rstrip(), markup=False)
    console.print("\n".join(plan.assumptions), markup=False)


def _gib(key: str):
    return lambda phase: f"{getattr(phase.memory, key) / GIB:.2f}"


# Lines that are known for a phase whose step does not compile.
_KNOWN_WITHOUT_PROGRAM = (
    "rows x context",
    "rematerialisation",
    "peak, GiB",
    "edge before it, GiB",
    "answering after it, GiB",
    "available, GiB",
    "fits",
    "useful FLOPs",
    "executed FLOPs",
)
_LINES = (
    ("mesh", lambda phase: " ".join(f"{name} {size}" for name, size in phase.mesh.items() if size > 1) or "1 device"),
    ("rows x context", lambda phase: f"{phase.rows_per_step} x {phase.context:,}"),
    ("rematerialisation", lambda phase: phase.remat),
    ("parameters, GiB", _gib("parameters")),
    ("optimizer, GiB", _gib("optimizer")),
    ("batch, GiB", _gib("batch")),
    ("activations, GiB", _gib("activations")),
    ("peak, GiB", _gib("peak")),
    ("edge before it, GiB", lambda phase: f"{phase.edge / GIB:.2f}" if phase.edge else "-"),
    ("answering after it, GiB", lambda phase: f"{phase.evaluation / GIB:.2f}" if phase.evaluation else "-"),
    ("available, GiB", lambda phase: f"{phase.available / GIB:.2f}"),
    ("fits", lambda phase: "yes" if phase.fits else "no"),
    ("useful FLOPs", lambda phase: f"{phase.useful_flops:.3g}"),
    ("executed FLOPs", lambda phase: f"{phase.executed_flops:.3g}"),
    ("compute, s", lambda phase: f"{phase.bound.compute:.3f}"),
    ("memory, s", lambda phase: f"{phase.bound.memory:.3f}"),
    ("network, s", lambda phase: f"{phase.bound.network:.3f}"),
    ("exposed network, s", lambda phase: f"{phase.bound.exposed:.3f}"),
    ("step, s", lambda phase: f"{phase.bound.step:.3f}"),
    ("bounded by", lambda phase: phase.bound.bounded_by),
    ("exposed of the step", lambda phase: f"{phase.bound.exposed / phase.bound.step:.1%}"),
    ("MFU at most", lambda phase: f"{phase.mfu:.1%}"),
    ("tokens a day", lambda phase: f"{phase.tokens_per_day:.3g}"),
    ("days", lambda phase: f"{phase.days:.2f}"),
    ("trace, lower, compile, s", lambda phase: " ".join(f"{seconds:.1f}" for seconds in phase.seconds)),
)


def memory_chart(plan: Plan, chip: Chip) -> str:
    """Returns an SVG chart of the memory of one device in each phase, by parts, with the available memory as a line."""
    phases = plan.phases
    width, left, top, height, step = 120 + 110 * max(len(phases), 3), 60, 40, 260, 110
    top_value = 1.1 * max(chip.hbm_bytes, *(phase.memory.peak for phase in phases))
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 110}" font-family="sans-serif" font-size="12">',
        f'<text x="{left}" y="20">GiB on one device: {escape(plan.config)} on {escape(plan.hardware.name)}</text>',
    ]
    for number, phase in enumerate(phases):
        x, base = left + step * number + 20, top + height
        for part in PARTS:
            size = height * getattr(phase.memory, part) / top_value
            base -= size
            svg.append(f'<rect x="{x}" y="{base:.1f}" width="60" height="{size:.1f}" fill="{COLOURS[part]}"><title>{part}</title></rect>')
        svg.append(f'<text x="{x + 30}" y="{base - 4:.1f}" text-anchor="middle">{phase.memory.peak / GIB:.1f}</text>')
        svg.append(f'<text x="{x + 30}" y="{top + height + 16}" text-anchor="middle">{escape(phase.phase)}</text>')
    limit = top + height * (1 - chip.hbm_bytes / top_value)
    svg.append(f'<line x1="{left}" x2="{width - 20}" y1="{limit:.1f}" y2="{limit:.1f}" stroke="black" stroke-dasharray="4 3"/>')
    svg.append(f'<text x="{left - 6}" y="{limit + 4:.1f}" text-anchor="end">{chip.hbm_bytes / GIB:.1f}</text>')
    svg.append(f'<line x1="{left}" x2="{width - 20}" y1="{top + height}" y2="{top + height}" stroke="black"/>')
    for number, part in enumerate(PARTS):
        x = left + 100 * number
        svg.append(f'<rect x="{x}" y="{top + height + 40}" width="12" height="12" fill="{COLOURS[part]}"/>')
        svg.append(f'<text x="{x + 16}" y="{top + height + 51}">{part}</text>')
    return "\n".join([*svg, "</svg>\n"])
