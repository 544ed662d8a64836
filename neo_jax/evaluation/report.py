"""What a run learned, for people and for programs: one self-contained HTML page and report.json beside it, and a table for the terminal.

Everything here is plain data; nothing of training or of files is known.
"""

from __future__ import annotations

import json
import os
import pathlib

from data_pipelines.files import write_whole
from neo_jax.evaluation.page import page
from neo_jax.evaluation.results import (
    FamilyResult,
    MetricRow,
    PhaseResults,
    PhaseSpan,
    RunReport,
    SampleCard,
    summary,
    table,
    wilson_interval,
)

__all__ = [
    "FamilyResult",
    "MetricRow",
    "PhaseResults",
    "PhaseSpan",
    "RunReport",
    "SampleCard",
    "page",
    "summary",
    "table",
    "wilson_interval",
    "write_report",
]


def write_report(folder: str | os.PathLike[str], report: RunReport) -> pathlib.Path:
    """Writes report.json and report.html into an existing or new folder, each atomically; returns the page's path."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = page(report)
    write_whole(folder / "report.json", json.dumps(summary(report), indent=2, allow_nan=False) + "\n")
    write_whole(folder / "report.html", contents)
    return folder / "report.html"
