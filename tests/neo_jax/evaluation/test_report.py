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
from neo_jax.evaluation.report.charts import BUCKETS, COLOURS, MAX_LINES, line_style, logarithmic_axis, round_axis, thin
from neo_jax.evaluation.report.data import MetricRow, PhaseResults, PhaseSpan, RunReport, SampleCard, Skipped, table, wilson_interval
from neo_jax.evaluation.report.figures import duration, percent
from neo_jax.evaluation.report.write import write_report
from neo_jax.runs.evaluations import FamilyResult
from neo_jax.runs.facts import RunFacts

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'text'"
VOID = {"meta", "img", "br", "input", "link", "rect", "path", "line"}
FACTS = RunFacts("TPU v5p", 64, 16, {"jax": "0.12.0.1"}, "0123456789" * 4, 1000, 1.8e9)


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
            SampleCard("count", (picture("JPEG"), picture("PNG"), picture("PNG")), "How many?", "2", "2", "1 more images are not shown"),
            SampleCard("text", (), "A red circle.\nWhich colour?", "blue", "red"),
        ),
        seconds=1043.0,
        parameters=2_585_453_568,
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
    assert set(found) >= {"phases", "families", "exact_match", "blank_exact_match", "majority", "seconds"}
    assert found["evaluated_phase"] == "fine-tuning" and found["parameters"] == 2_585_453_568 and found["commit"] is None
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
    assert not re.search(r"url\(|@import|https?:", page) and "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_page_shows_phases_charts_accuracy_and_samples(run, tmp_path):
    text = parsed(write_report(tmp_path, run).read_text()).text
    for expected in ("Loss", "Training loss by source", "Held-out loss by source", "Context length", "Resolution", "Accuracy by family"):
        assert expected in text
    for expected in ("text only", "fine-tuning", "left right", "80.0%", "60.0%", "15.0%", "17:23 min", "128 → 512", "160²", "How many?"):
        assert expected in text
    assert "✓ 2" in text and "✗ blue" in text and "truth: red" in text and "A red circle." in text
    assert "1 more images are not shown" in text and "2.59B (2,585,453,568)" in text
    assert "held-out" in text and "never saw" not in text


def test_page_shows_what_the_run_ran_on(run, tmp_path):
    assert parsed(write_report(tmp_path, run).read_text()).text.count("unknown") >= 6  # hardware, speed, commit, versions, starts and MFU
    phases = (*run.phases[:1], dataclasses.replace(run.phases[1], tokens_per_second=12_345.6, mfu=0.4567))
    starts = (FACTS, dataclasses.replace(FACTS, device_count=128, started=1.8e9 + 3600))
    skipped = (
        Skipped("training", "image", "missing_file", 7, 0.0004, "", "a.jpg: no such file"),
        Skipped("training", "image", "too_long", 3, None, "fine-tuning", "needs 700 of context"),
    )
    known = dataclasses.replace(
        run, phases=phases, starts=starts, skipped=skipped, configuration='{"model": 1}', warnings=("leaks",), problems=("damage",)
    )
    text = parsed(write_report(tmp_path, known).read_text()).text
    for expected in (
        *("64 x TPU v5p in 16 processes, then 128 x TPU v5p", "12,346 tokens/s in phase fine-tuning", "MFU 45.7%", FACTS.commit),
        *("jax 0.12.0.1", "2, the first 2027-01-15 08:00 UTC, the last 2027-01-15 09:00 UTC", '{"model": 1}'),
        *("missing_file", "<0.1%", "a.jpg: no such file", "needs 700 of context", "leaks", "damage"),
    ):
        assert expected in text, expected
    found = json.loads((tmp_path / "report.json").read_text())
    assert (found["device_kind"], found["device_count"], found["commit"]) == ("TPU v5p", 128, FACTS.commit)
    assert found["warnings"] == ["leaks"] and found["problems"] == ["damage"] and found["skipped"][0]["samples"] == 7


def test_everything_is_escaped(run, tmp_path):
    hostile = dataclasses.replace(
        run,
        title=HOSTILE,
        starts=(dataclasses.replace(FACTS, device_kind=HOSTILE, versions={HOSTILE: HOSTILE}, commit=HOSTILE),),
        configuration=HOSTILE,
        skipped=(Skipped(HOSTILE, HOSTILE, HOSTILE, 1, None, HOSTILE, HOSTILE),),
        warnings=(HOSTILE,),
        problems=(HOSTILE,),
        phases=tuple(dataclasses.replace(phase, name=HOSTILE + phase.name) for phase in run.phases),
        metrics=(MetricRow(1, 100, 2.0, {HOSTILE: 1.0, "other": 1.0}, {HOSTILE: 1.0, "other": 1.0}),),
        results=(PhaseResults(HOSTILE, {HOSTILE: FamilyResult(200, 0.9, 0.2, 0.1)}),),
        cards=(
            SampleCard(HOSTILE, (picture("PNG"),), HOSTILE, HOSTILE, HOSTILE, HOSTILE),
            SampleCard("text", (), f"{HOSTILE}\n{HOSTILE}", "", "x"),
        ),
    )
    page = write_report(tmp_path, hostile).read_text()
    tags = parsed(page)
    assert "script" not in tags.tags and "<script" not in page
    assert tags.text.count(HOSTILE) >= 24
    assert "(nothing)" in tags.text


def test_half_a_surrogate_pair_is_no_reason_to_lose_the_report(run, tmp_path):
    cards = (SampleCard("text", (), "What is \ud83d?", "\ud83d", "x"),)
    path = write_report(tmp_path, dataclasses.replace(run, cards=cards, problems=("\ud83d",)))
    assert "What is " in path.read_text() and json.loads((tmp_path / "report.json").read_text())["problems"] == ["\ud83d"]


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
        ["mean", "over", "2", "families", "-", "80.0", "60.0", "15.0", "450"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_a_mean_is_over_the_same_families_in_every_phase():
    def asked(**matches: float) -> dict[str, FamilyResult]:
        return {name: FamilyResult(10, match, 0.0, 0.0) for name, match in matches.items()}

    results = (
        PhaseResults("early", asked(text=1.0)),
        PhaseResults("middle", asked(text=0.6, count=0.2)),
        PhaseResults("late", asked(text=0.8, count=0.4, motion=0.0)),
    )
    lines = [line.split() for line in table(results).splitlines() if line.startswith("mean")]
    assert lines == [
        ["mean", "over", "3", "families", "-", "-", "40.0", "0.0", "0.0", "30"],
        ["mean", "over", "2", "families", "-", "40.0", "60.0", "0.0", "0.0", "20"],
    ]
    assert not any(line.startswith("mean") for line in table(results[:1]).splitlines())  # one family has no mean
    assert "no held-out question" in table(())


@pytest.mark.parametrize(
    ("share", "digits", "expected"),
    [
        *((1.0, 1, "100.0%"), (0.9996, 1, ">99.9%"), (0.9994, 1, "99.9%"), (0.0, 1, "0.0%"), (0.0004, 1, "<0.1%"), (0.0006, 1, "0.1%")),
        *((0.996, 0, ">99%"), (1.0, 0, "100%"), (0.004, 0, "<1%"), (0.0, 0, "0%"), (0.5, 0, "50%")),
    ],
)
def test_only_all_is_100_percent_and_only_none_is_0(share, digits, expected):
    assert percent(share, digits) == expected


def test_durations():
    assert [duration(seconds) for seconds in (59.6, 3599.6, 7322)] == ["1:00 min", "1 h 00 min", "2 h 02 min"]


def test_sources_have_lines_of_their_own(run, tmp_path):
    assert COLOURS > 6 and len({line_style(place) for place in range(MAX_LINES)}) == MAX_LINES >= 12
    losses = {f"source {place}": 1.0 + place for place in range(MAX_LINES + 3)}
    page = write_report(tmp_path, dataclasses.replace(run, metrics=(MetricRow(1, 100, 2.0, losses, losses),))).read_text()
    text = parsed(page).text
    assert f"Held-out loss by source, {MAX_LINES + 1} to {MAX_LINES + 3} of {MAX_LINES + 3}" in text
    for figure in page.split("<figure")[1:]:
        styles = re.findall(r'<path class="line ([^"]*)"', figure)
        assert len(set(styles)) == len(styles)
        assert all(f".{name} {{" in page for style in styles for name in style.split())  # the style sheet has each
    assert all(name in text for name in losses)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (10, 10, 0.7225, 1.0)],
)
def test_wilson_interval(right, count, low, high):
    """Against worked values of the literature (81 of 263 is Newcombe's example)."""
    assert wilson_interval(right / count, count) == pytest.approx((low, high), abs=1e-4)


def test_refusals(run, tmp_path):
    with pytest.raises(ValueError, match="at least one phase"):
        dataclasses.replace(run, phases=())
    with pytest.raises(ValueError, match="at least one family"):
        dataclasses.replace(run, results=(PhaseResults("text only", {}),))
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0.5, 0)


def test_a_run_without_metrics_images_or_evaluations_still_has_a_page(run, tmp_path):
    small = dataclasses.replace(run, phases=run.phases[:1], results=run.results[:1], metrics=(), cards=())
    text = parsed(write_report(tmp_path, small).read_text()).text
    assert "Context length" in text and "Held-out loss" not in text
    nothing = dataclasses.replace(small, results=(), seconds=None)
    text = parsed(write_report(tmp_path, nothing).read_text()).text
    assert "Context length" in text and "Accuracy" not in text
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["exact_match"] == {} and found["evaluated_phase"] is None and found["families"] == []


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
