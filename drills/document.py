"""docs/drills.md: what came of the last run of the drills and of the soak, between marks in a text that people write."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Sequence

from data_pipelines.printable import printable

PATH = pathlib.Path(__file__).parents[1] / "docs" / "drills.md"
MARKS = ("<!-- written by python -m drills --write -->", "<!-- end of the drills -->")
SOAK_MARKS = ("<!-- written by python -m drills.soak --write -->", "<!-- end of the soak -->")
KEPT = "outcomes.jsonl"  # in the folder of the drills
MOST = 300  # characters of a figure; those of a failure are longer


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a drill.

    Attributes:
      name, criterion: of the drill.
      figure: what was measured, or why it failed.
      passed: whether the criterion holds.
      seconds: that it took.
      load: seconds that a second of computing took before it (lab.slowness).
      date: on which it was carried out.
    """

    name: str
    criterion: str
    figure: str
    passed: bool
    seconds: float
    load: float
    date: str = dataclasses.field(default_factory=lambda: datetime.date.today().isoformat())

    @property
    def verdict(self) -> str:
        return "passed" if self.passed else "FAILED"

    def line(self) -> str:
        return f"{self.name}: {self.criterion} | {printable(self.figure)} | {self.verdict} | {self.seconds:.0f} s, load {self.load:.1f}"


def keep(outcome: Outcome, folder: pathlib.Path) -> None:
    """Appends an outcome to those of earlier calls."""
    with (folder / KEPT).open("a") as file:
        file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")


def kept(names: Sequence[str], folder: pathlib.Path) -> list[Outcome]:
    """Returns the last outcome of each of these drills. Raises ValueError if one was never carried out."""
    found = {each.name: each for each in (Outcome(**json.loads(line)) for line in (folder / KEPT).read_text().splitlines())}
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{', '.join(missing)}: never carried out with this folder; run all drills first")
    return [found[name] for name in names]


def machine() -> str:
    """Returns versions and machine."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "orbax-checkpoint", "grain"))
    return f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, {versions}, {os.uname().sysname} {os.uname().release}"


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns the section of the drills."""
    passed = sum(each.passed for each in outcomes)
    minutes, loads = sum(each.seconds for each in outcomes) / 60, [each.load for each in outcomes]
    dates = sorted({each.date for each in outcomes})
    lines = [
        f"`make drills`, the last run of each, {' to '.join(dates[:1] + dates[1:][-1:])}: **{passed} of {len(outcomes)} drills passed**, "
        f"{minutes:.0f} minutes together.",
        f"{machine()}; a second of computing took {min(loads):.1f} to {max(loads):.1f} s (column load).",
        "",
        "| drill | criterion | figure | verdict | s | load |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in outcomes:
        figure = printable(" ".join(each.figure.split())[:MOST]).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {each.name} | {each.criterion} | {figure} | {each.verdict} | {each.seconds:.0f} | {each.load:.1f} |")
    return "\n".join(lines)


def write_drills(outcomes: Sequence[Outcome], path: pathlib.Path = PATH) -> None:
    _replace(path, MARKS, table(outcomes))


def write_soak(lines: Sequence[str], minutes: float, path: pathlib.Path = PATH) -> None:
    heading = f"`make soak SOAK_MINUTES={minutes:g}` on {datetime.date.today()}. {machine()}."
    _replace(path, SOAK_MARKS, "\n".join((heading, "", *(f"- {line}" for line in lines))))


def _replace(path: pathlib.Path, marks: tuple[str, str], section: str) -> None:
    """Replaces what stands between two marks. Raises ValueError if the file has not both, in this order."""
    begin, end = marks
    before, found, rest = path.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{path} has no lines {begin} and {end}")
    path.write_text(f"{before}{begin}\n\n{section}\n\n{end}{after}")
