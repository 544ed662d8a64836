"""The page that compares runs: one HTML file, self-contained. With one run it is a page about that run. All texts are data: they are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from neo_jax.comparison.runs import ComparedRun
from neo_jax.evaluation.report import charts, tables
from neo_jax.evaluation.report.figures import cut, duration, percent, short
from neo_jax.evaluation.report.style import STYLE
from neo_jax.evaluation.report.tables import differences, plain_table
from neo_jax.runs.goodput import BUCKETS

SAMPLES = 60  # questions that are shown
ANSWER = 300  # largest number of characters of an answer
MORE = """
.goodput { display: grid; grid-template-columns: minmax(90px, 220px) 1fr 60px; align-items: center; gap: 6px 12px; font-size: 14px; }
.goodput svg { display: block; width: 100%; } .goodput .name { overflow: hidden; text-overflow: ellipsis; text-align: right; }
.answers td, .answers th { white-space: normal; max-width: 320px; overflow-wrap: anywhere; vertical-align: top; unicode-bidi: isolate; }
.b-step { fill: var(--s2); --own: var(--s2); } .b-start { fill: var(--s8); --own: var(--s8); } .b-compile { fill: var(--s4); --own: var(--s4); }
.b-data { fill: var(--s3); --own: var(--s3); } .b-save { fill: var(--s1); --own: var(--s1); } .b-restore { fill: var(--s6); --own: var(--s6); }
.b-evaluation { fill: var(--s7); --own: var(--s7); } .b-replayed { fill: var(--s5); --own: var(--s5); }
.b-idle { fill: var(--blank); --own: var(--blank); }
"""
CURVES = (
    ("loss", "Training loss", "Nats a label."),
    ("heldout", "Held-out loss", "Nats a label, mean over the held-out sources."),
    ("speed", "Throughput", "Tokens a second over all devices."),
)


def page(runs: Sequence[ComparedRun]) -> str:
    """Returns the page."""
    sections = [
        ("Runs", "As far as they have come.", _runs(runs)),
        ("Curves", "Over the tokens that a run has trained on.", _curves(runs)),
        ("Phases", "Speed and MFU are medians over the phase's log lines.", _phases(runs)),
        ("Goodput", "What the wall-clock time from the first start to the last line went into; steps are what counts.", _goodput(runs)),
        ("Incidents", "Starts, settings that changed, samples that were skipped, checkpoints that could not be read.", _incidents(runs)),
        ("Samples", _about_samples(runs), _samples(runs)),
        ("Settings that differ", "Every key of the configuration in which any two of the runs differ.", _settings(runs)),
        ("What differs between two runs", "Settings and figures.", _differences(runs) if len(runs) > 1 else ""),
    ]
    problems = [f"{run.name}: {problem}" for run in runs for problem in run.problems]
    notice = f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in problems)}</ul>"
    damage = f'<aside class="notice problem"><h2>Not everything could be shown</h2>{notice}</aside>' if problems else ""
    body = "".join(
        f"<section><h2>{escape(title)}</h2><p>{escape(note)}</p>{content}</section>" for title, note, content in sections if content
    )
    title = f"{len(runs)} runs compared" if len(runs) > 1 else runs[0].name
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{STYLE}{tables.STYLE}{MORE}</style></head><body><main><h1>{escape(title)}</h1>"
        f"{damage}{body}</main></body></html>\n"
    )


def _figures(run: ComparedRun) -> dict[str, str]:
    """Returns what a run has reached, as texts by name."""
    last, curves = run.records[-1] if run.records else None, run.curves
    loss, heldout = (f"{curves[name][-1][1]:.4f}" if curves[name] else "" for name in ("loss", "heldout"))
    start = run.starts[-1] if run.starts else None
    mfu = [phase.mfu for phase in run.phases if phase.mfu is not None]
    return {
        "step": f"{last.step if last else 0:,}" + (f" of {run.steps:,}" if run.steps else ""),
        "tokens": short(last.tokens) if last else "0",
        "training loss": loss,
        "held-out loss": heldout,
        "exact match": "" if run.exact_match is None else percent(run.exact_match),
        "tokens/s": "" if run.speed is None else f"{run.speed:,.0f}",
        "MFU": percent(mfu[-1]) if mfu else "",
        "wall clock": duration(run.goodput.total) if run.goodput.total else "",
        "in steps": percent(run.goodput.share) if run.goodput.total else "",
        "starts": str(run.goodput.starts or len(run.starts)),
        "devices": f"{start.device_count:,} x {start.device_kind}" if start else "",
    }


def _runs(runs: Sequence[ComparedRun]) -> str:
    figures = [_figures(run) for run in runs]
    return plain_table(["run", *figures[0]], [[run.name, *each.values()] for run, each in zip(runs, figures, strict=True)])


def _curves(runs: Sequence[ComparedRun]) -> str:
    drawn = []
    kept = runs[: charts.MAX_LINES]
    for quantity, title, note in CURVES:
        points = [(place, run.name, charts.thin(run.curves[quantity])) for place, run in enumerate(kept)]
        lines = [charts.Line(name, line, charts.line_style(place)) for place, name, line in points if line]
        if not lines:
            continue
        xs, ys = [x for line in lines for x, _ in line.points], [y for line in lines for _, y in line.points]
        bands = _bands(runs[0]) if len(runs) == 1 else []
        x_axis = charts.round_axis(0, max(xs + [band.end for band in bands]))
        y_axis = charts.round_axis(0, 1.1 * max(ys)) if quantity == "speed" else charts.logarithmic_axis(min(ys), max(ys))
        more = f" The first {len(kept)} of {len(runs)} runs." if len(runs) > len(kept) else ""
        drawn.append(charts.line_chart(title, note + more, lines, bands, x_axis, y_axis, "tokens", wide=True))
    return f'<div class="panels">{"".join(drawn)}</div>' if drawn else ""


def _bands(run: ComparedRun) -> list[charts.Band]:
    ends = [0]
    for phase in run.phases:
        ends.append(ends[-1] + phase.tokens)
    return [charts.Band(phase.name, *edges) for phase, *edges in zip(run.phases, ends[:-1], ends[1:], strict=True) if edges[1] > edges[0]]


def _phases(runs: Sequence[ComparedRun]) -> str:
    rows = [
        [
            run.name,
            phase.name,
            f"{phase.context:,}",
            f"{phase.first_step:,} to {phase.last_step:,}",
            short(phase.tokens),
            "" if phase.tokens_per_second is None else f"{phase.tokens_per_second:,.0f}",
            "" if phase.mfu is None else percent(phase.mfu),
        ]
        for run in runs
        for phase in run.phases
        if phase.tokens
    ]
    return plain_table(["run", "phase", "context", "steps", "tokens", "tokens/s", "MFU"], rows) if rows else ""


def _goodput(runs: Sequence[ComparedRun]) -> str:
    """Returns a stacked bar a run, and the seconds of every bucket."""
    measured = [run for run in runs if run.goodput.total]
    if not measured:
        return ""
    order = ["step", *(bucket for bucket in BUCKETS if bucket != "step")]
    bars = ""
    for run in measured:
        at, parts = 0.0, ""
        for bucket in order:
            share = max(0.0, run.goodput.seconds[bucket] / run.goodput.total)
            said = f"{bucket}: {percent(share)}, {duration(run.goodput.seconds[bucket])}"
            parts += f'<rect class="b-{bucket}" x="{100 * at:.3f}%" width="{100 * share:.3f}%" y="2" height="20"><title>{escape(said)}</title></rect>'
            at += share
        label = f"{run.name}: time by bucket"
        bars += f'<span class="name">{escape(run.name)}</span><svg height="24" role="img" aria-label="{escape(label)}">{parts}</svg>'
        bars += f"<span>{escape(percent(run.goodput.share))}</span>"
    legend = "".join(f'<li class="block b-{bucket}">{bucket}</li>' for bucket in order)
    rows = [[run.name, duration(run.goodput.total), *(f"{run.goodput.seconds[bucket]:,.1f}" for bucket in order)] for run in measured]
    table = plain_table(["run", "wall clock", *(f"{bucket} (s)" for bucket in order)], rows)
    return f'<div class="panel"><ul class="legend">{legend}</ul><div class="goodput">{bars}</div></div><div class="below">{table}</div>'


def _incidents(runs: Sequence[ComparedRun]) -> str:
    rows = [
        [run.name, each.moment, "" if each.step is None else f"{each.step:,}", each.kind, each.text]
        for run in runs
        for each in run.incidents
    ]
    return f'<div class="answers">{plain_table(["run", "time", "step", "what", "details"], rows)}</div>' if rows else ""


def _asked(runs: Sequence[ComparedRun]) -> list[dict[tuple[str, str, str], str]]:
    """Returns the answers of the runs that have some, by family, key and truth."""
    return [{(each.family, each.key, each.truth): each.answer for each in run.evaluation.answers} if run.evaluation else {} for run in runs]


def _about_samples(runs: Sequence[ComparedRun]) -> str:
    after = ", ".join(f"{run.name} after {run.evaluation.phase}" for run in runs if run.evaluation)
    return f"Answers to held-out questions that all of these were asked, those first on which they disagree: {after}. ✓ equals the truth."


def _samples(runs: Sequence[ComparedRun]) -> str:
    answered = [(run, answers) for run, answers in zip(runs, _asked(runs), strict=True) if answers]
    if not answered:
        return ""
    shared = [question for question in answered[0][1] if all(question in answers for _, answers in answered)]
    verdicts = {question: [answers[question].strip() == question[2].strip() for _, answers in answered] for question in shared}
    shared.sort(key=lambda question: len(set(verdicts[question])) == 1)
    rows = [
        [
            *(cut(text, ANSWER) for text in question),
            *(
                f"{'✓' if right else '✗'} {cut(answers[question], ANSWER)}"
                for (_, answers), right in zip(answered, verdicts[question], strict=True)
            ),
        ]
        for question in shared[:SAMPLES]
    ]
    if not rows:
        return "<p>They were asked no question in common.</p>"
    more = f'<p class="soft">{SAMPLES} of {len(shared):,} questions.</p>' if len(shared) > SAMPLES else ""
    table = plain_table(["family", "sample", "truth", *(run.name for run, _ in answered)], rows)
    return f'<div class="answers">{table}</div>{more}'


def _settings(runs: Sequence[ComparedRun]) -> str:
    readable = [run for run in runs if run.values]
    keys = dict.fromkeys(key for run in readable for key in run.values)
    differing = [key for key in keys if len({run.values.get(key) for run in readable}) > 1]
    if not differing:
        return ""
    rows = [[key, *(cut(run.values.get(key, ""), ANSWER) for run in readable)] for key in differing]
    return plain_table(["key", *(run.name for run in readable)], rows)


def _differences(runs: Sequence[ComparedRun]) -> str:
    return differences([(run.name, {**_figures(run), **run.values}) for run in runs])
