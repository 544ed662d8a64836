"""neo_jax.init: from somebody's files to a configuration that trains; what it prints, and what it refuses."""

import json
import pathlib
import subprocess
import sys

import pytest
from PIL import Image, ImageDraw

from data_pipelines.text.tokenizers import SPECIAL_TOKENS, load_tokenizer
from neo_jax import init
from neo_jax.config import parse_command_line
from tests.neo_jax.training.running import environment_of_runs

ROOT = pathlib.Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "tokenizer.json"


def row(question: str, answer: str, **media: object) -> dict:
    return media | {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def picture_rows(folder: pathlib.Path, count: int) -> list[dict]:
    """Rows that ask how many dots a picture has."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        image = Image.new("RGB", (64 + 32 * (number % 3), 64), "white")
        for dot in range(number % 4 + 1):
            ImageDraw.Draw(image).ellipse([16 * dot, 8, 16 * dot + 12, 20], fill="red")
        image.save(folder / f"{number}.png")
    return [row("<image>\nHow many dots?", ["One.", "Two.", "Three.", "Four."][i % 4], image=f"{i}.png") for i in range(count)]


def sums() -> list[dict]:
    return [row(f"{a} + {b}?", f"It is {a + b}.") for a in range(8) for b in range(8)]


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A working directory with dots.jsonl and sums.json."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "dots.jsonl").write_text("".join(json.dumps(each) + "\n" for each in picture_rows(tmp_path / "images", 40)))
    (tmp_path / "sums.json").write_text(json.dumps(sums()))
    return tmp_path


def lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_files_become_a_curriculum(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert init.main(["dots.jsonl", "sums.json", "--media-root", "images", "--output=configs/mine.py"]) == 0
    assert all(path.read_bytes() == content for path, content in before.items()), "what is read is never changed"
    settings = parse_command_line(["--config=configs/mine.py"])
    assert [phase.name for phase in settings.phases] == ["text", "pretrain", "mid", "sft"]
    assert [phase.trains for phase in settings.phases] == ["all", "new", "all", "all"]
    assert [sorted(phase.mixture) for phase in settings.phases] == [["sums"], ["dots"], ["dots", "sums"], ["dots", "sums"]]
    for name, rows in (("dots", lines(place / "dots.jsonl")), ("sums", sums())):
        parts = [lines(place / getattr(settings.data, part)[name].path) for part in ("sources", "heldout")]
        assert all(parts) and sorted(map(json.dumps, parts[0] + parts[1])) == sorted(map(json.dumps, rows)), "each row once"
        assert settings.phases[-1].mixture[name] == len(parts[0])
    tokenizer = load_tokenizer(settings.tokenizer.path, settings.tokenizer.add_special_tokens)
    assert tokenizer.vocabulary <= settings.model.vocabulary < tokenizer.vocabulary + 64
    longest = max(len(tokenizer.encode(each["conversations"][1]["value"])) + 1 for each in sums())
    assert longest <= settings.evaluation.answer_tokens < longest + 8
    smoke = parse_command_line(["--config=configs/mine.py:smoke"])
    assert [phase.steps for phase in smoke.phases] == [3] * 4 and smoke.run.directory != settings.run.directory
    printed = capsys.readouterr().out
    for text in (
        "dots.jsonl: 40 rows, 40 usable, of which 4 are held out",
        "sums.json: 64 rows, 64 usable, of which 6 are held out",
        "pictures: 40 in 40 rows; width 96 (median)",
        "written: configs/mine.py and the folder configs/mine",
        "  python -m data_pipelines.check dots.jsonl sums.json --media-root=images --tokenizer=configs/mine/tokenizer.model "
        "--config=configs/mine.py\n  python -m neo_jax.train --config=configs/mine.py\n",
    ):
        assert text in printed, printed
    assert not list(place.glob("configs/.*")), "nothing unfinished is left"


def test_the_file_reads_like_those_of_the_project(place: pathlib.Path) -> None:
    assert init.main(["dots.jsonl", "sums.json", "--media-root=images", "--output=configs/mine.py"]) == 0
    text = (place / "configs" / "mine.py").read_text()
    assert len(text.splitlines()) < 160 and "# tokens of a row. Of documents: " in text
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), "configs/mine.py"]
        assert subprocess.run(ruff, cwd=place, check=False).returncode == 0


def test_budgets_hold_the_documents_that_they_say_they_hold(place: pathlib.Path) -> None:
    long = [row("Say it often.", "word " * 400)]
    (place / "sums.json").write_text(json.dumps(sums() * 4 + long))
    assert init.main(["dots.jsonl", "sums.json", "--media-root=images", "--output=configs/mine.py"]) == 0
    sft = parse_command_line(["--config=configs/mine.py"]).phases[-1]
    assert sft.context < 400 and sft.max_pixels == 128 * 64, "one document of hundreds does not set the context; no picture is made smaller"


def test_unusable_rows_are_left_out_by_name(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (place / "dots.jsonl").open("a") as file:
        file.write(json.dumps(row("<image>\nA?", "b", image="none.png")) + "\n{broken\n")
    assert init.main(["dots.jsonl", "--media-root=images", "--output=configs/mine.py"]) == 0
    left_out = lines(place / "configs" / "mine" / "left_out.jsonl")
    assert [(each["key"], each["reason"]) for each in left_out] == [("dots.jsonl:41", "missing_file"), ("dots.jsonl:42", "broken_json")]
    assert "  left out: 1 missing_file, 1 broken_json; named in configs/mine/left_out.jsonl; for example " in capsys.readouterr().out
    parts = [place / "configs" / "mine" / f"{part}_dots.jsonl" for part in ("train", "heldout")]
    assert sum(len(lines(part)) for part in parts) == 40


def test_a_given_tokenizer_is_kept_and_a_copy_has_the_special_tokens(place: pathlib.Path) -> None:
    content = json.loads(GOLDEN.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in SPECIAL_TOKENS]
    for text in SPECIAL_TOKENS:
        content["model"]["vocab"].pop(text, None)
    (place / "checkpoint").mkdir()
    (place / "checkpoint" / "config.json").write_text("{}")
    given = place / "checkpoint" / "tokenizer.json"
    given.write_text(json.dumps(content))
    flags = ["--media-root=images", "--output=configs/mine.py", "--tokenizer=checkpoint", "--base=neo_ov_2b"]
    assert init.main(["dots.jsonl", *flags]) == 0
    assert given.read_text() == json.dumps(content)
    settings = parse_command_line(["--config=configs/mine.py"])
    assert settings.tokenizer.path == "configs/mine/tokenizer.json" and settings.run.initial == "checkpoint"
    assert (settings.model.hidden, settings.model.vocabulary) == (2048, 151_936)
    assert [phase.name for phase in settings.phases] == ["pretrain", "mid", "sft"] and settings.phases[0].compute_dtype == "bfloat16"
    smoke = parse_command_line(["--config=configs/mine.py:smoke"])
    assert smoke.model.hidden == 64 and smoke.run.initial == "" and smoke.phases[0].mesh.fsdp == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dots.jsonl"], "--output is missing"),
        (["--output=configs/mine.py"], "no file is named"),
        (["dots.jsonl", "--output=configs/mine.txt"], "--output: is 'configs/mine.txt', must be a Python file"),
        (["dots.jsonl", "--output=config/mine.py"], "--output: the folder config does not exist"),
        (["dots.parquet", "--output=configs/mine.py"], "dots.parquet: must be a .json or .jsonl file"),
        (
            ["dots.jsonl", "--output=configs/mine.py", "--base=neo_ov_2b"],
            "--tokenizer is missing: neo_ov_2b starts from a published checkpoint",
        ),
        (["dots.jsonl", "--output=configs/mine.py", "--base=demmo"], "did you mean 'demo'?"),
        (["dots.jsonl", "--output=configs/mine.py", "--media-roto=images"], "did you mean '--media-root'?"),
    ],
)
def test_flags_refused(arguments: list[str], sentence: str, place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init.main(arguments) == 78
    assert sentence in capsys.readouterr().err
    assert not list((place / "configs").iterdir())


@pytest.mark.parametrize("existing", ["configs/mine.py", "configs/mine"])
def test_an_output_that_exists_is_kept(existing: str, place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / existing).write_text("mine")
    assert init.main(["dots.jsonl", "--media-root=images", "--output=configs/mine.py"]) == 78
    assert f"--output: {existing} exists: delete it or choose another name" in capsys.readouterr().err
    assert (place / existing).read_text() == "mine" and len(list((place / "configs").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.jsonl"], "none.jsonl"),
        (["dots.jsonl", "--media-root=nowhere"], "media_root nowhere is not a folder"),
        (["dots.jsonl"], "40 of 40 rows cannot be used (40 bad_record), more than 5%: repair them"),
        (["dots.jsonl", "--media-root=configs"], "40 of 40 rows cannot be used (40 missing_file)"),
        (["one.json"], "the 3 usable rows share their files or are equal"),
        (["sums.json", "--tokenizer=one.json"], "tokenizer one.json: neither a SentencePiece .model nor a tokenizer.json"),
    ],
)
def test_data_refused(arguments: list[str], sentence: str, place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "one.json").write_text(json.dumps([row("A?", "b")] * 3))
    assert init.main([*arguments, "--output=configs/mine.py"]) == 65
    assert sentence in capsys.readouterr().err
    assert not list((place / "configs").iterdir())


@pytest.mark.xdist_group("init")
def test_what_is_written_trains(place: pathlib.Path) -> None:
    (place / "all.json").write_text(json.dumps(lines(place / "dots.jsonl") + sums()))

    def command(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=place, env=environment_of_runs(), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    command("neo_jax.init", "all.json", "--media-root=images", "--output=configs/mine.py")
    assert [phase.name for phase in parse_command_line(["--config=configs/mine.py"]).phases] == ["mid", "sft"], (
        "pictures and text in one file"
    )
    page = pathlib.Path(command("neo_jax.train", "--config=configs/mine.py:smoke").splitlines()[-1])
    assert page == place / "runs" / "mine" / "smoke" / "report.html" and page.is_file()
    steps = lines(page.parent / "metrics.jsonl")
    assert steps[-1]["step"] == 6 and not (page.parent / "skipped.jsonl").exists()
