"""docs/drills.md: the table of the last run of all drills, between two marks in a text that people write."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Sequence

from data_pipelines.printable import printable

PATH = pathlib.Path(__file__).parents[1] / "docs" / "drills.md"
BEGIN, END = "<!-- table: written by python -m drills --write -->", "<!-- end of the table -->"
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
    """

    name: str
    criterion: str
    figure: str
    passed: bool
    seconds: float
    load: float

    @property
    def verdict(self) -> str:
        return "passed" if self.passed else "FAILED"

    def line(self) -> str:
        return f"{self.name}: {self.criterion} | {printable(self.figure)} | {self.verdict} | {self.seconds:.0f} s, load {self.load:.1f}"


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns the section with the table, its command, versions and machine."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "orbax-checkpoint", "grain"))
    passed = sum(each.passed for each in outcomes)
    lines = [
        f"`make drills` on {datetime.date.today()}: **{passed} of {len(outcomes)} drills passed** in "
        f"{sum(each.seconds for each in outcomes) / 60:.0f} minutes. {os.cpu_count()} CPU cores, Python {platform.python_version()}, {versions}, "
        f"{platform.system()} {platform.release()}; a second of computing took {min(each.load for each in outcomes):.1f} to "
        f"{max(each.load for each in outcomes):.1f} s.",
        "",
        "| drill | criterion | figure | verdict | s | load |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in outcomes:
        figure = printable(" ".join(each.figure.split())[:MOST]).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {each.name} | {each.criterion} | {figure} | {each.verdict} | {each.seconds:.0f} | {each.load:.1f} |")
    return "\n".join(lines)


def write_document(outcomes: Sequence[Outcome], path: pathlib.Path = PATH) -> None:
    """Replaces the table in docs/drills.md."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{table(outcomes)}\n\n{END}{after}")
