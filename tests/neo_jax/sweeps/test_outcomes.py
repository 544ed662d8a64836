"""Means over seeds, paired differences, the table, the CSV file and the page."""

import csv
import io
import json
import math

import pytest

from neo_jax.sweeps import outcomes
from neo_jax.sweeps.file import Sweep
from neo_jax.sweeps.folder import Listed, State
from neo_jax.sweeps.outcomes import Outcome, as_csv, groups, mean, varied
from neo_jax.sweeps.page import page
from neo_jax.sweeps.table import results_table, status_table

CONFIGURATION = json.dumps({"run": {"seed": 0}, "note": "</script><script>alert(1)"})


def outcome(index: int, settings: dict, status: str = "finished", reason: str = "", **quantities: float) -> Outcome:
    curves = {"loss": [(1.0, 3.0), (2.0, 2.0)], "heldout": [(2.0, 1.5)]} if quantities else {"loss": [], "heldout": []}
    return Outcome(Listed(index, f"name{index}", settings), State(status, reason), 5, 10, 100, 60.0, quantities, 50.0, curves, ())


RUNS = [
    outcome(0, {"a": 1, "run.seed": 0}, heldout=1.0, exact_match=0.5),
    outcome(1, {"a": 1, "run.seed": 1}, heldout=2.0, exact_match=0.7),
    outcome(2, {"a": 2, "run.seed": 0}, heldout=1.1, exact_match=0.4),
    outcome(3, {"a": 2, "run.seed": 1}, heldout=2.3, exact_match=0.5),
    outcome(4, {"a": 2, "run.seed": 2}, heldout=9.0),
    outcome(5, {"a": "<b>&", "run.seed": 0}, "failed", "exit code 70 <i>"),
]


def test_intervals_are_students():
    """Three values: t(0.975, 2) = 4.3027 times the deviation 1 over the root of 3."""
    found = mean([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.half == pytest.approx(4.30265273 / math.sqrt(3))
    assert math.isinf(mean([4.0]).half)
    assert mean([]) is None


def test_differences_are_paired_by_seed():
    first, second, third = groups(RUNS)
    found = second.less(first, "heldout")
    assert (found.mean, found.count) == (pytest.approx(0.2), 2)  # 0.1 and 0.3; the seed that the first lacks does not count
    assert found.half == pytest.approx(12.7062047 * 0.1)
    assert third.less(first, "heldout") is None


def test_only_finished_runs_are_compared():
    runs = [*RUNS[:2], outcome(2, {"a": 2, "run.seed": 0}, "stopped", heldout=0.1), outcome(3, {"a": 2, "run.seed": 1}, heldout=3.0)]
    first, second = groups(runs)
    assert second.mean("heldout").mean == 3.0
    assert (second.less(first, "heldout").mean, second.less(first, "heldout").count) == (1.0, 1)


def test_tables():
    table = results_table(RUNS)
    assert "0.2000 ± 1.2706" in table and "3 of 3" in table and "0 of 1" in table
    status = status_table(RUNS)
    assert "exit code 70" in status and status.endswith("5 finished, 1 failed")
    assert varied(RUNS) == ["a", "run.seed"]


def test_scores_after_each_phase_count_if_enough_was_asked(tmp_path):
    phases = [{"name": name, "exact_match": {"overall": value}} for name, value in (("text", 0.1), ("sft", 0.5))]
    report = {"exact_match": {"overall": 0.5, "count": 0.5}, "benchmarks": [], "phases": phases}
    (tmp_path / "report.json").write_text(json.dumps(report))
    found, problems = outcomes._scores(tmp_path / "report.json", stages=True)
    assert found == {"exact_match": 0.5, "exact_match/count": 0.5, "exact_match_after/text": 0.1, "exact_match_after/sft": 0.5}
    assert not problems
    assert outcomes._scores(tmp_path / "report.json", stages=False)[0] == {"exact_match": 0.5, "exact_match/count": 0.5}


def test_csv_has_every_run_and_figure():
    rows = list(csv.DictReader(io.StringIO(as_csv(RUNS))))
    assert len(rows) == 6
    assert (rows[3]["heldout"], rows[3]["run.seed"], rows[4]["exact_match"], rows[5]["reason"]) == ("2.3", "1", "", "exit code 70 <i>")


def test_the_page_takes_settings_as_data():
    text = page(Sweep("mine", "Is <b> better?", "neo_jax.train", None, ()), RUNS, lambda name: CONFIGURATION)
    assert "Is &lt;b&gt; better?" in text and "&lt;b&gt;&amp;" in text and "exit code 70 &lt;i&gt;" in text
    assert "</script><script>alert" not in text and "<b>" not in text
    for title in ("Settings", "Curves", "Parallel coordinates", "Best runs", "Failed runs", "What differs between two runs"):
        assert f"<h2>{title}</h2>" in text


def test_a_setting_has_one_entry_in_a_legend():
    text = page(Sweep("mine", "Is it?", "neo_jax.train", None, ()), RUNS, lambda name: CONFIGURATION)
    (held_out,) = [part for part in text.split("<figure") if "<h3>Held-out loss</h3>" in part]
    assert held_out.count("<li") == 2 and held_out.count('<path class="line') == 5  # settings, runs


def test_a_page_before_the_first_step():
    runs = [outcome(0, {}, "waiting"), outcome(1, {"a": 2}, "running")]
    text = page(Sweep("mine", "Is it?", "neo_jax.train", None, ()), runs, lambda name: CONFIGURATION)
    assert "Curves" not in text and "What differs" in text
    assert "waiting" in status_table(runs) and "as the configuration" not in results_table(runs)
