"""Writes a report: one self-contained HTML page, and report.json beside it."""

from __future__ import annotations

import json
import os
import pathlib

from data_pipelines.storage import write_whole
from neo_jax.evaluation.report.data import RunReport, summary
from neo_jax.evaluation.report.page import page


def write_report(folder: str | os.PathLike[str], report: RunReport) -> pathlib.Path:
    """Writes report.json and report.html into an existing or new folder, each atomically; returns the page's path."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = page(report).encode("utf-8", "xmlcharrefreplace")  # answers may hold half a surrogate pair, which UTF-8 has no bytes for
    write_whole(folder / "report.json", json.dumps(summary(report), indent=2, allow_nan=False) + "\n")
    write_whole(folder / "report.html", contents)
    return folder / "report.html"
