"""The command: one's own rows answered, scored, compared; stopped and started again; what it refuses."""

import json
import pathlib

import pytest
from PIL import Image

from neo_jax import chat, evaluate
from neo_jax.evaluation.results import Result, differences_of, read_answers, read_results, scores_of
from neo_jax.exit_codes import CONFIGURATION, DATA, DONE
from tests.neo_jax.test_chat import run  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pathlib.Path:
    """Nine questions about pictures of two shades, in two families; some have several accepted answers."""
    folder = tmp_path_factory.mktemp("rows")
    for shade in (40, 220):
        Image.new("RGB", (64, 64), (shade, 60, 60)).save(folder / f"{shade}.png")
    lines = []
    for number in range(9):
        question = {"role": "user", "content": "<image>\n" + "Is it red? " * (1 + 3 * (number % 3))}
        row = {"messages": [question], "images": [f"{(40, 220)[number % 2]}.png"], "family": ("dark", "light")[number % 2]}
        if number % 3:
            row["answers"] = ["yes", f"answer {number}"]
        else:
            row["messages"].append({"role": "assistant", "content": "no"})
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


def score(run, output, rows, *arguments) -> int:  # noqa: F811
    return evaluate.main(
        [f"--checkpoint={run}", f"--output={output}", f"--media-root={rows.parent}", f"--data={rows}", "--max-tokens=4", *arguments]
    )


def test_rows_are_answered_and_scored(run, rows, tmp_path, capsys):  # noqa: F811
    """The answers are those of chat; few at a time or many make no difference."""
    assert score(run, tmp_path / "one", rows) == DONE
    out = capsys.readouterr().out
    assert "dark" in out and "light" in out and "all" in out and out.splitlines()[1].split()[1] == "5"
    results = read_results(tmp_path / "one")
    assert len(results) == 9 and read_answers(tmp_path / "one" / "answers.jsonl")[1] == {each.key: each.prediction for each in results}
    first = results[0]
    assert first.key == "rows.jsonl:1" and first.family == "dark" and first.details == {"answers": ["no"]}
    assert chat.main([f"--checkpoint={run}", f"--image={rows.parent / '40.png'}", "Is it red? ", "--max-tokens=4"]) == DONE
    assert capsys.readouterr().out.strip() == first.prediction.strip()
    assert score(run, tmp_path / "two", rows, "--tokens=1", f"--compare={tmp_path / 'one'}") == DONE
    assert read_results(tmp_path / "two") == results
    assert f"less {tmp_path / 'one'}" in capsys.readouterr().out
    written = json.loads((tmp_path / "one" / "scores.json").read_text())
    assert set(written["scores"]) == {"dark", "light", "all"} and written["scores"]["all"]["questions"] == 9
    assert written["settings"]["metric"] == "exact" and written["overall"] == 100 * written["scores"]["all"]["mean"]


def test_it_goes_on_where_it_was_stopped(run, rows, tmp_path, capsys, monkeypatch):  # noqa: F811
    assert score(run, tmp_path / "whole", rows) == DONE
    whole = (tmp_path / "whole" / "answers.jsonl").read_text()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "answers.jsonl").write_text("".join(whole.splitlines(keepends=True)[:4]) + '{"key": "rows.js')
    asked = []
    measure = chat.Answerer.measure
    monkeypatch.setattr(chat.Answerer, "measure", lambda self, sample, *rest: asked.append(sample.key) or measure(self, sample, *rest))
    assert score(run, tmp_path / "cut", rows) == DONE
    assert len(asked) == 6
    assert sorted((tmp_path / "cut" / "answers.jsonl").read_text().splitlines()) == sorted(whole.splitlines())
    assert (tmp_path / "cut" / "scores.json").read_text() == (tmp_path / "whole" / "scores.json").read_text()
    capsys.readouterr()
    assert score(run, tmp_path / "cut", rows, "--blank") == DATA
    assert "holds answers to other settings (blank differ)" in capsys.readouterr().err
    asked.clear()
    assert score(run, tmp_path / "whole", rows) == DONE and asked == []


def test_blank_pictures_are_all_the_same(run, rows, tmp_path, capsys):  # noqa: F811
    assert score(run, tmp_path / "blank", rows, "--blank", "--most=1") == DONE
    assert [each.key for each in read_results(tmp_path / "blank")] == ["rows.jsonl:1", "rows.jsonl:2"]


def test_another_metric_asks_nothing_again(run, rows, tmp_path, capsys, monkeypatch):  # noqa: F811
    assert score(run, tmp_path / "out", rows) == DONE
    monkeypatch.setattr(evaluate, "open_answerer", None)
    assert score(run, tmp_path / "out", rows, "--metric=regex", "--pattern=(?s).*") == DONE
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["settings"]["pattern"] == "(?s).*"


GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "evaluation"


def ask(run, output, benchmark, *arguments, data=None) -> int:  # noqa: F811
    file = data or GOLDEN / benchmark / "input.tsv"
    limits = ["--max-tokens=4", "--min-pixels=1024", "--max-pixels=1024", f"--media-root={file.parent / 'media'}"]
    return evaluate.main([f"--checkpoint={run}", f"--output={output}", f"--benchmark={benchmark}", f"--data={file}", *limits, *arguments])


def test_a_benchmark(run, tmp_path, capsys):  # noqa: F811
    """Rotations of a question count once; a preset that samples gives the same answers to the same seed."""
    assert ask(run, tmp_path / "one", "mmbench") == DONE
    out = capsys.readouterr().out
    assert "mmbench (official): " in out and "published NEO-ov: 2B 80.0, 9B 85.1" in out
    results = read_results(tmp_path / "one")
    assert len(results) == 9 and sum(each.score is not None for each in results) == 3
    written = json.loads((tmp_path / "one" / "scores.json").read_text())
    assert written["scores"]["all"]["questions"] == 3 and written["official"][0]["split"] == "dev"
    assert written["settings"]["pixels"] == [1024, 1024] and written["settings"]["preset"] == "official"
    assert ask(run, tmp_path / "two", "mmbench", "--tokens=1", f"--compare={tmp_path / 'one'}") == DONE
    assert read_results(tmp_path / "two") == results and f"less {tmp_path / 'one'}" in capsys.readouterr().out
    assert ask(run, tmp_path / "one", "mmbench", "--preset=lmms_eval") == DATA
    assert "preset differ" in capsys.readouterr().err


def test_a_benchmark_of_several_pictures_and_one_without(run, tmp_path, capsys):  # noqa: F811
    assert ask(run, tmp_path / "several", "muirbench", "--preset=lmms_eval", "--context=1024", "--blank", "--most=1") == DONE
    assert len(read_results(tmp_path / "several")) == 3
    assert ask(run, tmp_path / "films", "mvbench", "--variant=MVBench_16frame") == DATA
    assert "has no variant 'MVBench_16frame'; it has MVBench_64frame, MVBench_32frame" in capsys.readouterr().err
    assert ask(run, tmp_path / "films", "site_video") == DATA
    assert "(context)" in capsys.readouterr().err


BROKEN_TABLES = [
    ("index\tquestion\tA\tanswer\n1\tWhat?\tyes\tA\n", "row 1: has no picture"),
    ("index\tA\timage_path\tanswer\n1\tyes\tx.png\tA\n", "has no column 'question'"),
    ("index\tquestion\tA\timage_path\n1\tWhat?\tyes\tx.png\n", "has no column 'answer'"),
    ("index\tquestion\tA\timage_path\tanswer\n1\tWhat?\tyes\tx.png\tA\n", "x.png does not exist"),
    ("index\tquestion\tA\timage_path\tanswer\n1\tWhat?\tyes\t../x.png\tA\n", "leads out of"),
    ("index\tquestion\tA\timage\tanswer\n1\tWhat?\tyes\t///\tA\n", "neither a picture as base64 nor the index of another row"),
    ("index\tquestion\tA\timage\tanswer\n1\tWhat?\tyes\tbm90IGEgcGljdHVyZQ==\tA\n", "row 1, picture 1: not an image"),
]


def test_folders_that_are_none(run, rows, tmp_path, capsys):  # noqa: F811
    (tmp_path / "file").write_text("")
    assert score(run, tmp_path / "file", rows) == DATA
    assert "cannot be made a folder for answers" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    for text, message in (("", "it is empty"), ('{"settings": {}}\n{"key": "a", "prediction": null}\n', "an answer is no text")):
        (tmp_path / "out" / "answers.jsonl").write_text(text)
        assert score(run, tmp_path / "out", rows) == DATA
        err = capsys.readouterr().err
        assert message in err and "name a new --output, or remove it" in err


@pytest.mark.parametrize(("text", "message"), BROKEN_TABLES)
def test_tables_that_cannot_be_asked_are_named(run, tmp_path, capsys, text, message):  # noqa: F811
    (tmp_path / "media").mkdir()
    (tmp_path / "rows.tsv").write_text(text)
    assert ask(run, tmp_path / "out", "mmstar", data=tmp_path / "rows.tsv") == DATA
    errors = capsys.readouterr().err.splitlines()[-1]
    assert errors.startswith("error: ") and message in errors


BROKEN = [
    ("[1", "rows.jsonl is not valid JSON"),
    ('{"messages": ', "rows.jsonl, line 1: not valid JSON"),
    ('{"messages": [{"role": "user", "content": "Hi"}]}', "rows.jsonl:1: has no answer"),
    ('{"messages": [{"role": "user", "content": "Hi"}], "answers": "yes"}', "'answers' must be a list of texts"),
    ('{"messages": [{"role": "user", "content": "<image>Hi"}, {"role": "assistant", "content": "a"}], "images": ["none.png"]}', "none.png"),
    ('{"image_path_2": "a.png", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}]}', "unknown_key"),
    ('{"text": "words"}', "has no answer"),
    ("", "rows.jsonl holds no samples"),
    ('{"messages": [{"role": "user", "content": "' + "long " * 400 + '"}, {"role": "assistant", "content": "a"}]}', "of context"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_rows_that_cannot_be_asked_are_named(run, tmp_path, capsys, line, message):  # noqa: F811
    file = tmp_path / "rows.jsonl"
    file.write_text(line + "\n")
    assert score(run, tmp_path / "out", file) == DATA
    errors = capsys.readouterr().err.splitlines()[-1]
    assert errors.startswith("error: ") and message in errors


def test_flags_that_do_not_fit(run, rows, tmp_path, capsys):  # noqa: F811
    assert score(run, tmp_path / "out", rows, "--metric=regex") == CONFIGURATION
    assert "--pattern: belongs to metric regex" in capsys.readouterr().err
    assert score(run, tmp_path / "out", rows, "--metric=regex", "--pattern=(") == CONFIGURATION
    assert "is no regular expression" in capsys.readouterr().err
    assert score(run, tmp_path / "out", rows, "--benchmark=mmbnch") == CONFIGURATION
    assert "mmbench" in capsys.readouterr().err


def results_of(scores: dict[str, float]) -> list[Result]:
    return [Result(key, key[0], "", value) for key, value in scores.items()]


def test_scores_and_paired_differences():
    ours = results_of({"a1": 1, "a2": 0, "a3": 1, "b1": 0.5})
    scores = scores_of(ours)
    assert scores["a"].mean == pytest.approx(2 / 3) and scores["all"].mean == 0.625 and scores["all"].questions == 4
    half = 1.959964 * (1 / 3) ** 0.5 / 3**0.5
    assert (scores["a"].low, scores["a"].high) == pytest.approx((2 / 3 - half, 2 / 3 + half))
    theirs = results_of({"a1": 1, "a2": 1, "a3": 1, "c1": 0})
    differences = differences_of(ours, theirs)
    assert set(differences) == {"all"} and differences["all"].questions == 3 and differences["all"].mean == pytest.approx(-1 / 3)
    assert differences_of(ours, []) == {}
