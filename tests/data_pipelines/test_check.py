import json
import pathlib
import subprocess
import sys

import pytest
import small_corpus

from data_pipelines import check, convert
from data_pipelines.failures import FailurePolicy
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.schema import NO_LABEL, SourceSettings
from data_pipelines.sources import open_source
from data_pipelines.text import chat

ROOT = pathlib.Path(__file__).parents[2]
TOKENIZER = f"--tokenizer={small_corpus.GOLDEN / 'tokenizer.json'}"
KEYS = ["key", "usable", "reason", "message", "tokens", "labels", "images"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root)
    return root


def run(capsys, *arguments):
    status = check.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def config(root, phases, names=(), **data):
    """A configuration file of these phases over sources of the corpus."""
    shared = {"segments": 8, "steps": 1, "rows_per_step": 1, "min_pixels": 1024, "max_pixels": 128 * 128, "frame_pixels": 64 * 64}
    values = {
        "curriculum": tuple(phases),
        "phases": {name: shared | phase for name, phase in phases.items()},
        "tokenizer": {"path": str(small_corpus.GOLDEN / "tokenizer.json"), "add_special_tokens": True},
        "data": {"sources": {source: {"format": "jsonl", "path": str(root / f"{source}.jsonl")} for source in names}, **data},
    }
    path = root / "config.py"
    path.write_text(f"from ml_collections import ConfigDict\n\ndef get_config(arg=None):\n    return ConfigDict({values!r})\n")
    return f"--config={path}"


def test_one_object_a_row(root, capsys):
    status, out, err = run(capsys, root / "mixed.jsonl", f"--media-root={root / 'media'}", TOKENIZER, "--json")
    rows = objects(out)
    assert status == 0 and [list(row) for row in rows] == [KEYS] * 12
    assert [row["key"] for row in rows] == [f"mixed.jsonl:{line}" for line in range(1, 13)]
    assert all((row["usable"], row["reason"], row["message"]) == (True, None, None) for row in rows)
    assert rows[1]["images"] == [[64, 300]] and len(rows[6]["images"]) == 3 and rows[8]["images"] == rows[10]["images"] == []
    source = small_corpus.jsonl(root / "mixed.jsonl")
    for number in (10, 11):  # text
        tokens, labels = chat.encode(source[number].turns, [], small_corpus.tokenizer())
        assert (rows[number]["tokens"], rows[number]["labels"]) == (len(tokens), (labels != NO_LABEL).sum())
    assert "keys that are not read" not in err


def test_without_a_tokenizer_nothing_is_counted_but_the_same_is_refused(tmp_path, capsys):
    rows = [
        {"conversations": small_corpus.turns("x")},
        {"conversations": small_corpus.turns("x")[:1]},
        {"image": "gone.png", "conversations": small_corpus.turns("<image>")},
        "{broken",
    ]
    small_corpus.write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "media").mkdir()
    arguments = (tmp_path / "rows.jsonl", f"--media-root={tmp_path / 'media'}", "--json")
    counted, uncounted = objects(run(capsys, *arguments, TOKENIZER)[1]), objects(run(capsys, *arguments)[1])
    assert [row["reason"] for row in uncounted] == [None, "no_answer", "missing_file", "broken_json"]
    assert all(row["tokens"] is row["labels"] is None for row in uncounted)
    assert [row | {"tokens": None, "labels": None} for row in counted] == uncounted
    assert counted[0]["tokens"] > counted[0]["labels"] > 0 and counted[1]["tokens"] is None


def test_every_row_is_reported_beyond_the_limit(tmp_path, capsys):
    rows = ["{broken"] * 150 + [{"conversations": small_corpus.turns("x")}]
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", rows)
    status, out, err = run(capsys, path, "--json")
    assert status == 65 and len(objects(out)) == 151
    assert "150 of 151 rows cannot be used (150 broken_json), more than 1.00%" in err and len(err.splitlines()) == 1


def test_the_limit_is_the_configurations(tmp_path, capsys):
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", [{"conversations": small_corpus.turns("x")}] * 18 + ["{"] * 2)
    phases = {"p": {"context": 128, "mixture": {"rows": 1.0}}}
    assert run(capsys, path)[0] == 65
    assert run(capsys, path, config(tmp_path, phases, max_failure_rate=0.1))[0] == 0


@pytest.mark.parametrize("as_json", [True, False])
def test_a_source_refused_whole_is_one_sentence_and_the_others_are_checked(tmp_path, capsys, as_json):
    good = small_corpus.write_jsonl(tmp_path / "good.jsonl", [{"conversations": small_corpus.turns("x")}])
    (tmp_path / "bad.csv").write_text("image,question\n")
    more = ["--json"] if as_json else []
    status, out, err = run(capsys, tmp_path / "bad.csv", *more)
    assert (status, out) == (65, "") and "is CSV" in err and len(err.splitlines()) == 1
    status, out, err = run(capsys, tmp_path / "bad.csv", good, *more)
    assert status == 65 and "good.jsonl" in out and "bad.csv" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rows.jsonl", "--tokenizer=none.json"], "no such file"),
        (["rows.jsonl", "--config=none.py"], "no such file none.py"),
        (["rows.jsonl", "--media-root=none"], "media_root none is not a folder"),
    ],
)
def test_other_files_that_are_missing(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    small_corpus.write_jsonl(tmp_path / "rows.jsonl", [{"conversations": small_corpus.turns("x")}])
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (65, "") and message in err and len(err.splitlines()) == 1


def test_a_wrong_command_line_has_the_same_status(capsys):
    for arguments, status in ((["--bogus"], 65), (["--help"], 0)):
        with pytest.raises(SystemExit) as stopped:
            check.main(arguments)
        assert stopped.value.code == status


def test_the_report(tmp_path, capsys):
    rows = [{"score": 1, "conversations": small_corpus.turns("x")}] * 3
    rows += [{"img": f"{number}", "conversations": small_corpus.turns("x")} for number in range(4)]
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", rows)
    _, out, _ = run(capsys, path, TOKENIZER)
    lines = out.splitlines()
    assert lines[0] == f"{path}: 3 of 7 rows can be used" and lines[1] == "  4 unknown_key"
    assert [line.split(": ")[0].strip() for line in lines[2:4]] == ["rows.jsonl:4", "rows.jsonl:5"]  # two examples
    assert "did you mean 'image'?" in lines[2]
    assert lines[4] == "  keys that are not read: score (3)" and lines[5].startswith("  tokens of a row: ")


def test_what_phases_would_lose_is_what_training_finds_too_long(root, tmp_path, capsys):
    """The same lengths as the index gives the planner, clips among them, for every phase."""
    phases = {
        "words": {"context": 400, "mixture": {"mixed": 1.0}},
        "small": {"context": 90, "visual_tokens": 20, "images": 4, "frames": 4, "mixture": {"mixed": 1.0}},
        "stills": {"context": 512, "visual_tokens": 400, "images": 32, "mixture": {"mixed": 1.0}},
        "large": {"context": 512, "visual_tokens": 400, "images": 32, "frames": 8, "mixture": {"mixed": 1.0}},
        "others": {"context": 512, "mixture": {"text": 1.0}},
    }
    named = config(root, phases, ("mixed",), minimum_samples=1)
    status, out, _ = run(capsys, root / "mixed.jsonl", f"--media-root={root / 'media'}", named)
    assert status == 0 and "phase others" not in out  # it does not read this source
    index = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), small_corpus.tokenizer(), tmp_path)
    for phase in check.read_configuration(named.removeprefix("--config=")).phases[:4]:
        lengths = index.lengths(phase, 0)[:]
        lost = (lengths > [phase.context, phase.visual_tokens, phase.images, phase.segments]).any(axis=1).sum()
        assert f"  phase {phase.name}: {lost} of 12 usable rows lost (" in out
    assert "phase words: 10 of 12 usable rows lost (10 media_in_text_phase" in out
    assert "2 no_frames" in out and "phase large: 0 of 12 usable rows lost (all fit)" in out
    rows = objects(run(capsys, root / "mixed.jsonl", f"--media-root={root / 'media'}", named, "--json")[1])
    assert [row["tokens"] for row in rows] == lengths[:, 0].tolist()  # of the longest document: the last phase's


def test_decoding_finds_damage_that_headers_hide(tmp_path, capsys):
    small_corpus.write_image(tmp_path / "media/a.jpg", 64, 64)
    whole = (tmp_path / "media/a.jpg").read_bytes()
    (tmp_path / "media/b.jpg").write_bytes(whole[:-600])
    small_corpus.write_video(tmp_path / "media/a.mp4")
    clip = bytearray((tmp_path / "media/a.mp4").read_bytes())
    start = clip.index(b"mdat") + 4
    clip[start : start + (len(clip) - start) // 2] = bytes((len(clip) - start) // 2)
    (tmp_path / "media/b.mp4").write_bytes(clip)
    rows = [{"image": name, "conversations": small_corpus.turns("<image>?")} for name in ("a.jpg", "b.jpg")]
    rows += [{"video": name, "conversations": small_corpus.turns("<video>?")} for name in ("a.mp4", "b.mp4")]
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", rows)
    arguments = (path, f"--media-root={tmp_path / 'media'}", "--json")
    assert [row["reason"] for row in objects(run(capsys, *arguments)[1])] == [None] * 4
    assert [row["reason"] for row in objects(run(capsys, *arguments, "--decode")[1])] == [None, "truncated", None, "broken_video"]


def test_a_source_of_the_configuration_is_read_with_its_settings(tmp_path, capsys):
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", [{"tools": "x", "conversations": small_corpus.turns("x")}])
    data = {"sources": {"rows": {"format": "jsonl", "path": str(path), "ignore": ("tools",)}}}
    phases = {"p": {"context": 128, "mixture": {"rows": 1.0}}}
    assert run(capsys, path)[0] == 65
    assert run(capsys, path, "--ignore=tools")[0] == 0
    assert run(capsys, path, config(tmp_path, phases, **data))[0] == 0


def test_what_conditions_leave_out_is_counted_and_is_no_failure(tmp_path, capsys):
    rows = [{"text": f"a text {number}", "lang": "en" if number % 4 else "de"} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"format": "jsonl", "path": str(tmp_path / "rows.jsonl")}
    phases = {"p": {"context": 64, "mixture": {"rows": 1.0}}}
    conditions = ("column.lang in en", "images == 0")
    flag = config(tmp_path, phases, sources={"rows": source | {"keep": conditions}})
    status, out, err = run(capsys, tmp_path / "rows.jsonl", flag)
    assert status == 0 and not err and "30 of 40 rows can be used" in out and "10 filtered" in out
    flag = config(tmp_path, phases, sources={"rows": source | {"keep": (*conditions, "tokens > 1000")}})
    status, out, err = run(capsys, tmp_path / "rows.jsonl", flag)
    assert status == 65 and "40 filtered" in out and "none is left" in err
    flag = config(tmp_path, phases, sources={"rows": source | {"keep": ("size > 3",)}})
    status, out, err = run(capsys, tmp_path / "rows.jsonl", flag)
    assert status == 65 and "data.sources.rows.keep[0] is 'size > 3': 'size' is nothing that is known of a sample" in err


def test_a_dataset_folder_is_checked_too(root, tmp_path, capsys):
    settings = SourceSettings("mixed", "jsonl", str(root / "mixed.jsonl"), str(root / "media"))
    folder, _ = convert.convert(settings, tmp_path, 1 << 30, FailurePolicy())
    from_file = run(capsys, root / "mixed.jsonl", f"--media-root={root / 'media'}", TOKENIZER, "--json")[1]
    from_folder = run(capsys, folder, TOKENIZER, "--json", "--format=tfds")[1]
    stills = [number for number in range(12) if open_source(settings)[number].clips == ()]  # frames are drawn by the source's name
    assert [objects(from_folder)[number] for number in stills] == [objects(from_file)[number] for number in stills]


def test_the_command_writes_nothing_but_objects_to_standard_output(tmp_path):
    rows = [{"score": 1, "conversations": small_corpus.turns("x")}, {"tools": "x", "conversations": small_corpus.turns("x")}]
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", rows)
    command = [sys.executable, "-m", "data_pipelines.check", str(path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and [row["usable"] for row in objects(done.stdout)] == [True, False]
    assert "keys that are not read: 'score'" in done.stderr
