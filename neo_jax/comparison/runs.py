"""Reads what a comparison shows of a run from its directory alone. Damaged files are named; everything else is shown."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from neo_jax import config
from neo_jax.config.changes import flat
from neo_jax.config.fields import ConfigError
from neo_jax.evaluation.report.build import spans
from neo_jax.evaluation.report.data import PhaseSpan
from neo_jax.evaluation.report.figures import cut
from neo_jax.evaluation.report.skipped import read_skipped
from neo_jax.runs.evaluations import EvaluationRecord, read_evaluations
from neo_jax.runs.facts import RunFacts, read_facts
from neo_jax.runs.goodput import Goodput, read_goodput
from neo_jax.runs.lines import read_objects
from neo_jax.runs.metrics import StepRecord, finite, read_records

INCIDENTS = "incidents.jsonl"
TEXT = 400  # largest number of characters of an incident
LISTED = 50  # lines of one file that are listed; further ones are counted


@dataclasses.dataclass(frozen=True)
class Incident:
    """Something that happened to a run besides its steps.

    Attributes:
      time: seconds since 1970; None if it is not known.
      step: of the whole run; None if it is not known.
      kind: "start", "settings changed", "checkpoint set aside", "skipped samples", "not finite", or what a file of incidents says.
      text: a sentence.
    """

    time: float | None
    step: int | None
    kind: str
    text: str

    @property
    def moment(self) -> str:
        return "" if self.time is None else datetime.datetime.fromtimestamp(self.time, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """One run.

    Attributes:
      name: different for each run of a page.
      values: the resolved configuration as texts by dotted key; empty if it cannot be read.
      steps: number of steps of the whole curriculum; None if the configuration cannot be read.
      records: by ascending step.
      phases: as they were run.
      goodput: what the time went into.
      incidents: in the order of their files.
      evaluation: the last one; None if there is none.
      starts: environment of each start.
      problems: sentences on files that cannot be read.
    """

    name: str
    values: Mapping[str, str]
    steps: int | None
    records: Sequence[StepRecord]
    phases: Sequence[PhaseSpan]
    goodput: Goodput
    incidents: Sequence[Incident]
    evaluation: EvaluationRecord | None
    starts: Sequence[RunFacts]
    problems: Sequence[str]

    @property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """Points (tokens, value) of "loss", "heldout" (mean over sources), in nats a label, and "speed" in tokens a second; only finite ones."""
        found: dict[str, list[tuple[float, float]]] = {"loss": [], "heldout": [], "speed": []}
        for record in self.records:
            heldout = statistics.fmean(record.heldout_loss.values()) if record.heldout_loss else None
            for name, value in (("loss", record.loss), ("heldout", heldout), ("speed", record.tokens_per_second)):
                if value is not None and math.isfinite(value) and value > 0:
                    found[name].append((record.tokens, value))
        return found

    @property
    def exact_match(self) -> float | None:
        """Mean over the families of the last evaluation."""
        scores = self.evaluation.scores.values() if self.evaluation else ()
        return statistics.fmean(score.exact_match for score in scores) if scores else None

    @property
    def speed(self) -> float | None:
        """Median tokens a second."""
        speeds = finite([record.tokens_per_second for record in self.records])
        return statistics.median(speeds) if speeds else None


def read_runs(directories: Sequence[str]) -> list[ComparedRun]:
    """Returns the runs of directories. Raises ConfigError if one is none."""
    paths = [pathlib.Path(directory).expanduser() for directory in directories]
    wrong = [path for path in paths if not any((path / name).is_file() for name in ("config.json", "metrics.jsonl"))]
    if wrong:
        raise ConfigError([f"{path} is no run directory: it has neither config.json nor metrics.jsonl" for path in wrong])
    twice = [str(path) for place, path in enumerate(paths) if path.resolve() in {other.resolve() for other in paths[:place]}]
    if twice:
        raise ConfigError([f"{path} is named twice: name each run once" for path in twice])
    absolute = [path.resolve() for path in paths]
    parts = next(count for count in range(1, 99) if len({path.parts[-count:] for path in absolute}) == len(absolute))
    return [read_run(path, "/".join(path.parts[-parts:])) for path in absolute]


def read_run(path: pathlib.Path, name: str) -> ComparedRun:
    """Reads one run."""
    problems: list[str] = []

    def known(values: Any, found: Sequence[str]) -> Any:
        problems.extend(found)
        return values

    try:
        records = known(*read_records(path / "metrics.jsonl"))
    except OSError as error:
        records = known([], [f"{path / 'metrics.jsonl'} cannot be read ({error.strerror})"])
    records = sorted(records, key=lambda record: record.step)
    resolved, settings = known(*_configuration(path / "config.json"))
    evaluations = [record for record in known(*read_evaluations(path)) if record.scores]
    starts, damage = read_facts(path)
    problems += [damage] if damage else []
    return ComparedRun(
        name,
        {key: json.dumps(value) for key, value in flat(resolved).items()},
        sum(phase.steps for phase in settings.phases) if settings else None,
        records,
        list(spans(settings, records)) if settings else [],
        known(*read_goodput(path)),
        list(_incidents(path, starts, records, settings, problems)),
        evaluations[-1] if evaluations else None,
        starts,
        problems,
    )


def _configuration(path: pathlib.Path) -> tuple[tuple[dict[str, Any], config.Config | None], list[str]]:
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        return ({}, None), [f"{path} cannot be read ({error}): its settings and phases are not shown"]
    try:
        return (values, config.Config.from_config_dict(values)), []
    except ConfigError as error:
        return (values, None), [f"{path} is of another version of neo_jax ({error.problems[0]}): its phases are not shown"]


def _incidents(
    path: pathlib.Path, starts: Sequence[RunFacts], records: Sequence[StepRecord], settings: config.Config | None, problems: list[str]
) -> Iterator[Incident]:
    for number, start in enumerate(starts, 1):
        hardware = f"{start.device_count} x {start.device_kind}, {start.processes} processes, commit {start.commit[:12] or 'unknown'}"
        yield Incident(start.started, None, "start", f"start {number} on {hardware}")
    for change in _lines(path / "config_changes.jsonl", problems):
        changed = change.get("changed")
        text = "; ".join(map(str, changed)) if isinstance(changed, list) else str(changed)
        yield Incident(_number(change.get("time")), _step(change), "settings changed", cut(text, TEXT))
    for change in _lines(path / INCIDENTS, problems):
        rest = {key: value for key, value in change.items() if key not in ("time", "step", "kind", "incident")}
        kind = str(change.get("kind", change.get("incident", "incident")))
        text = ", ".join(f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in rest.items())
        yield Incident(_number(change.get("time")), _step(change), cut(kind, TEXT), cut(text, TEXT))
    for folder in sorted(path.glob("quarantine-*")):
        step = folder.name.removeprefix("quarantine-")
        yield Incident(
            folder.stat().st_mtime, int(step) if step.isdigit() else None, "checkpoint set aside", f"damaged, kept as {folder.name}"
        )
    skipped, found = read_skipped(path, [phase.name for phase in settings.phases] if settings else [], {})
    problems.extend(found)
    for each in skipped:
        text = f"{each.samples:,} of {each.part} source {each.source}: {each.reason}; {each.example}"
        yield Incident(None, None, "skipped samples", cut(text, TEXT))
    for record in records:
        if not math.isfinite(record.loss):
            yield Incident(None, record.step, "not finite", f"loss {record.loss} in phase {record.phase}")


def _lines(path: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        lines, damaged = read_objects(path)
    except OSError as error:
        problems.append(f"{path} cannot be read ({error.strerror})")
        return []
    if damaged:
        problems.append(f"{path}: {damaged} lines are not JSON objects; they are left out")
    if len(lines) > LISTED:
        problems.append(f"{path}: the last {LISTED} of {len(lines):,} lines are listed")
    return lines[-LISTED:]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11 else None


def _step(values: Mapping[str, Any]) -> int | None:
    number = _number(values.get("step"))
    return None if number is None else int(number)
