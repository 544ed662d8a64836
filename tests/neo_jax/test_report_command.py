"""Runs compared on one page: python -m neo_jax.report."""

import html.parser
import json
import pathlib

import pytest

from configs.demo import get_config
from neo_jax.comparison.runs import read_runs
from neo_jax.config import Config, ConfigError
from neo_jax.report import main
from neo_jax.runs.evaluations import AnswerRecord, EvaluationRecord, FamilyResult, write_evaluation
from neo_jax.runs.facts import RunFacts, write_facts

HOSTILE = "</script><script>alert(1)</script><b>&\"'"
VOID = {"meta", "br"}


class Tags(html.parser.HTMLParser):
    """Checks that tags nest, and collects tags and the texts of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def make_run(directory: pathlib.Path, seed: int, answer: str = "two", speed: float = 100.0) -> pathlib.Path:
    values = get_config("smoke")
    values.run.update({"seed": seed, "directory": str(directory)})
    directory.mkdir(parents=True)
    settings = Config.from_config_dict(values)
    (directory / "config.json").write_text(settings.to_json())
    first = settings.phases[0].name
    records = [
        {"step": step, "phase": first, "tokens": 100 * step, "loss": (5 + seed) / step, "tokens_per_second": speed}
        | ({"heldout_loss": {"text": 6 / step}} if step % 5 == 0 else {})
        for step in range(1, 21)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = [
        {"began": 1000.0, "time": 1060.0, "step": 9, "seconds": {"start": 10.0, "compile": 20.0, "step": 30.0}},
        {"began": 1100.0, "time": 1200.0, "step": 21, "seconds": {"restore": 5.0, "replayed": 15.0, "step": 80.0}},
    ]
    (directory / "goodput.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_facts(directory, RunFacts("TPU v5p", 8, 2, {"jax": "1"}, "ab" * 20, 1000, 1e9))
    write_facts(directory, RunFacts("TPU v5p", 8, 2, {"jax": "1"}, "ab" * 20, 1000, 1e9 + 60))
    answers = (AnswerRecord("count", "a:1", "two", answer, "one"), AnswerRecord("text", f"only {seed}", "x", "x", "x"))
    write_evaluation(
        directory / "evaluations" / "00-x.json", EvaluationRecord(first, 10.0, answers, {"count": FamilyResult(2, 0.5, 0.1, 0.4)})
    )
    return directory


def page_of(tmp_path: pathlib.Path, *runs: pathlib.Path) -> str:
    output = tmp_path / "made" / "page.html"
    assert main([*map(str, runs), f"--output={output}"]) == 0
    return output.read_text()


def cells(text: str) -> list[str]:
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return [each.strip() for each in tags.texts]


def test_runs_are_compared(tmp_path):
    text = page_of(tmp_path, make_run(tmp_path / "a", 1), make_run(tmp_path / "b", 2, answer="three", speed=150.0))
    for title in ("Runs", "Curves", "Phases", "Goodput", "Incidents", "Samples", "Settings that differ", "What differs between two runs"):
        assert f"<h2>{title}</h2>" in text
    found = cells(text)
    assert "2 runs compared" in found and "20 of " in " ".join(found)
    for figure in ("0.3000", "0.3500", "150", "50.0%", "55.0%", "8 x TPU v5p", "run.seed", "✓ two", "✗ three"):
        assert figure in found, figure
    assert text.count('<path class="line') == 6, "three curves of two runs"
    assert [each[:7] for each in found if each.startswith("start ") and "TPU v5p" in each] == ["start 1", "start 2"] * 2
    assert "only 1" not in found, "a question that one run alone was asked"
    assert "http" not in text.replace("http-equiv", ""), "self-contained"


def test_goodput_is_a_stacked_bar_a_run(tmp_path):
    run = make_run(tmp_path / "a", 1)
    (read,) = read_runs([str(run)])
    assert (read.goodput.total, read.goodput.seconds["idle"], read.goodput.share) == (200.0, 40.0, 0.55)
    text = page_of(tmp_path, run)
    (bar,) = [part for part in text.split("<svg") if 'aria-label="a: time by bucket"' in part]
    assert bar.count("<rect") == 9 and 'class="b-step" x="0.000%" width="55.000%"' in bar


def test_one_run_makes_a_page(tmp_path):
    text = page_of(tmp_path, make_run(tmp_path / "a", 1))
    assert "<h1>a</h1>" in text and "What differs" not in text and "Settings that differ" not in text
    assert 'class="band' in text, "phases as bands"


def test_what_runs_say_is_data(tmp_path):
    run = make_run(tmp_path / "a", 1, answer=HOSTILE)
    other = make_run(tmp_path / "b", 2)
    values = json.loads((run / "config.json").read_text())
    values["run"]["initial"] = HOSTILE
    (run / "config.json").write_text(json.dumps(values))
    (run / "incidents.jsonl").write_text(json.dumps({"time": 5, "step": 7, "kind": HOSTILE, "rows": [1, 2], "why": HOSTILE}) + "\n")
    (run / "skipped.jsonl").write_text(json.dumps({"source": HOSTILE, "key": "k", "reason": "broken", "message": HOSTILE}) + "\n")
    (run / "config_changes.jsonl").write_text(json.dumps({"time": 1, "step": 3, "changed": [HOSTILE]}) + "\n{cut")
    (run / "quarantine-12").mkdir()
    text = page_of(tmp_path, run, other)
    assert "<script>alert" not in text and "<b>" not in text
    tags = Tags()
    tags.feed(text)
    assert tags.tags.count("script") == 2
    found = cells(text)
    assert f"✗ {HOSTILE}" in found and HOSTILE in found and "damaged, kept as quarantine-12" in found
    assert f"rows [1, 2], why {HOSTILE}" in found
    assert any("config_changes.jsonl: 1 lines are not JSON objects" in each for each in found)


def test_damaged_and_missing_files_are_named(tmp_path):
    run = make_run(tmp_path / "a", 1)
    (run / "config.json").write_text("{")
    (run / "evaluations" / "00-x.json").write_text("[]")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('nonsense\n{"step": 21, "phase": "x", "tokens": 2100, "loss": NaN}\n')
    found = cells(page_of(tmp_path, run))
    assert any("its settings and phases are not shown" in each for each in found)
    assert any("metrics.jsonl, line 21" in each for each in found) and any("00-x.json" in each for each in found)
    assert "loss nan in phase x" in found


def test_before_the_first_step(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    text = page_of(tmp_path, tmp_path / "a")
    assert "Curves" not in text and "<h2>Runs</h2>" in text


def test_what_is_no_run_is_refused(tmp_path, capsys):
    run = make_run(tmp_path / "a", 1)
    assert main([str(tmp_path)]) == 78 and "is no run directory" in capsys.readouterr().err
    assert main([str(run), str(run)]) == 78 and "is named twice" in capsys.readouterr().err
    assert main([]) == 78 and "no run is named" in capsys.readouterr().err


def test_names_tell_runs_apart(tmp_path):
    runs = [make_run(tmp_path / parent / "run", seed) for seed, parent in enumerate(("x", "y"))]
    assert [run.name for run in read_runs(list(map(str, runs)))] == ["x/run", "y/run"]
    with pytest.raises(ConfigError):
        read_runs([str(tmp_path / "missing")])
