"""The report: one self-contained page, report.json, the terminal's table."""

from __future__ import annotations

import dataclasses
import html.parser
import io
import json
import os
import re

import pytest
from PIL import Image

from neo_jax.evaluation.report import write as writing
from neo_jax.evaluation.report.charts import BUCKETS, logarithmic_axis, round_axis, thin
from neo_jax.evaluation.report.data import FamilyResult, MetricRow, PhaseResults, PhaseSpan, RunReport, SampleCard, table, wilson_interval
from neo_jax.evaluation.report.write import write_report

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'text'"
VOID = {"meta", "img", "br", "input", "link", "rect", "path", "line"}


def picture(kind: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(data, kind)
    return data.getvalue()


@pytest.fixture
def run() -> RunReport:
    return RunReport(
        title="Demo",
        phases=(PhaseSpan("text only", 128, 0, 1, 10, 1000), PhaseSpan("fine-tuning", 512, 160 * 160, 11, 30, 4000)),
        metrics=tuple(
            MetricRow(step, 150 * step, 5 / step, {"text": 4 / step, "image": 6 / step}, {"image": 7 / step} if step == 20 else {})
            for step in range(1, 31)
        ),
        results=(
            PhaseResults("text only", {"text": FamilyResult(200, 0.5, 0.5, 0.1)}),
            PhaseResults("fine-tuning", {"text": FamilyResult(200, 0.9, 0.9, 0.1), "left_right": FamilyResult(250, 0.7, 0.3, 0.2)}),
        ),
        cards=(
            SampleCard("count", (picture("JPEG"), picture("PNG"), picture("WEBP")), "How many?", "2", "2"),
            SampleCard("text", (), "A red circle.\nWhich colour?", "blue", "red"),
        ),
        seconds=1043.0,
    )


class Tags(html.parser.HTMLParser):
    """Checks that tags nest, and collects every tag, attribute and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    return tags


def test_json_holds_the_figures_of_the_last_phase(run, tmp_path):
    path = write_report(tmp_path / "new" / "folder", run)
    found = json.loads((path.parent / "report.json").read_text())
    assert set(found) == {"phases", "families", "exact_match", "blank_exact_match", "majority", "seconds"}
    assert found["families"] == ["text", "left_right"]
    assert found["exact_match"] == {"overall": pytest.approx(0.8), "text": 0.9, "left_right": 0.7}
    assert found["blank_exact_match"] == {"overall": pytest.approx(0.6), "text": 0.9, "left_right": 0.3}
    assert found["majority"] == {"overall": pytest.approx(0.15), "text": 0.1, "left_right": 0.2}
    assert found["seconds"] == 1043.0
    assert [(phase["name"], phase["context"], phase["max_pixels"]) for phase in found["phases"]] == [
        ("text only", 128, 0),
        ("fine-tuning", 512, 25600),
    ]
    assert found["phases"][0]["exact_match"] == {"overall": 0.5, "text": 0.5}


def test_page_is_well_formed_and_needs_nothing_else(run, tmp_path):
    path = write_report(tmp_path, run)
    assert path == tmp_path / "report.html"
    page = path.read_text(encoding="utf-8")
    tags = parsed(page)
    assert "script" not in tags.tags and "link" not in tags.tags and "svg" in tags.tags
    addresses = [value for name, value in tags.attributes if name in ("src", "href", "xlink:href")]
    assert len(addresses) == 3 and all(address.startswith("data:image/") for address in addresses)
    assert not re.search(r"url\(|@import|https?:", page)
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_page_shows_phases_charts_accuracy_and_samples(run, tmp_path):
    text = parsed(write_report(tmp_path, run).read_text()).text
    for expected in ("Loss", "Training loss by source", "Held-out loss by source", "Context length", "Resolution", "Accuracy by family"):
        assert expected in text
    for expected in ("text only", "fine-tuning", "left right", "80.0%", "60.0%", "15.0%", "17:23 min", "128 → 512", "160²", "How many?"):
        assert expected in text
    assert "✓ 2" in text and "✗ blue" in text and "truth: red" in text and "A red circle." in text


def test_everything_is_escaped(run, tmp_path):
    hostile = dataclasses.replace(
        run,
        title=HOSTILE,
        phases=tuple(dataclasses.replace(phase, name=HOSTILE + phase.name) for phase in run.phases),
        metrics=(MetricRow(1, 100, 2.0, {HOSTILE: 1.0, "other": 1.0}, {HOSTILE: 1.0, "other": 1.0}),),
        results=(PhaseResults(HOSTILE, {HOSTILE: FamilyResult(200, 0.9, 0.2, 0.1)}),),
        cards=(SampleCard(HOSTILE, (picture("PNG"),), HOSTILE, HOSTILE, HOSTILE), SampleCard("text", (), f"{HOSTILE}\n{HOSTILE}", "", "x")),
    )
    page = write_report(tmp_path, hostile).read_text()
    tags = parsed(page)
    assert "script" not in tags.tags and "<script" not in page
    assert tags.text.count(HOSTILE) >= 10
    assert "(nothing)" in tags.text


def test_writing_is_atomic(run, tmp_path, monkeypatch):
    path = write_report(tmp_path, run)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    assert set(before) == {"report.html", "report.json"}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(writing.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, dataclasses.replace(run, title="Another"))
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
    monkeypatch.undo()
    assert "Another" in write_report(tmp_path, dataclasses.replace(run, title="Another")).read_text()
    assert path.stat().st_mode & 0o777 == 0o644


def test_table_for_the_terminal(run):
    lines = table(run.results).splitlines()
    assert lines[0].split() == ["family", "text", "only", "fine-tuning", "blank", "majority", "questions"]
    assert [line.split() for line in (lines[2], lines[3], lines[5])] == [
        ["text", "50.0", "90.0", "90.0", "10.0", "200"],
        ["left_right", "-", "70.0", "30.0", "20.0", "250"],
        ["overall", "50.0", "80.0", "60.0", "15.0", "450"],
    ]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (10, 10, 0.7225, 1.0)],
)
def test_wilson_interval(right, count, low, high):
    """Against worked values of the literature (81 of 263 is Newcombe's example)."""
    assert wilson_interval(right / count, count) == pytest.approx((low, high), abs=1e-4)
    assert FamilyResult(count, right / count, 0.0, 0.0).interval == wilson_interval(right / count, count)


def test_refusals(run, tmp_path):
    with pytest.raises(ValueError, match="at least one family"):
        dataclasses.replace(run, results=())
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0.5, 0)
    with pytest.raises(ValueError, match="neither JPEG, PNG nor WebP"):
        write_report(tmp_path, dataclasses.replace(run, cards=(SampleCard("count", (b"GIF89a",), "q", "a", "a"),)))
    assert not list(tmp_path.iterdir())


def test_a_run_without_metrics_or_images_still_has_a_page(run, tmp_path):
    small = dataclasses.replace(run, phases=run.phases[:1], results=run.results[:1], metrics=(), cards=())
    text = parsed(write_report(tmp_path, small).read_text()).text
    assert "Context length" in text and "Samples" not in text


def test_non_finite_losses_are_left_out(run, tmp_path):
    broken = (*run.metrics, MetricRow(31, 5000, float("nan"), {"text": float("inf")}))
    page = write_report(tmp_path, dataclasses.replace(run, metrics=broken)).read_text()
    assert "nan" not in "".join(re.findall(r' d="([^"]*)"', page))


def test_thin_keeps_means_and_ends_small():
    points = [(float(place), 2.0 * place) for place in range(10_000)]
    thinned = thin(points)
    assert len(thinned) <= BUCKETS
    assert thinned[0] == (20.5, 41.0)
    assert thin(points[:3]) == points[:3] and thin([]) == []


def test_axes():
    assert round_axis(0, 2600).ticks == [0, 1000, 2000]
    axis = logarithmic_axis(0.08, 6.0)
    assert axis.ticks == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5])
    assert (axis.place(0.08), axis.place(6.0)) == pytest.approx((0, 1))
    assert 0 < logarithmic_axis(1.0, 1.0).place(1.0) < 1
