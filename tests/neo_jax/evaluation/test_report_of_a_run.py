"""The report as it is read from a run directory: any picture is shown or noted, damage is named and the rest shown, leaks are warned of."""

import dataclasses
import io
import json
import logging
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs.demo import get_config
from data_pipelines.inspection import leaks
from neo_jax.config import Config
from neo_jax.evaluation.report.build import report_run
from neo_jax.evaluation.report.figures import cut
from neo_jax.evaluation.report.pictures import PICTURE_BYTES, PICTURES, SIDE, small_file
from neo_jax.runs.evaluations import AnswerRecord, EvaluationRecord, FamilyResult, write_evaluation
from neo_jax.runs.facts import RunFacts, write_facts


def row(images: list[str], answer: str = "2", **others) -> dict:
    text = "<image>\n" * len(images) + "How many?"
    return {"images": images, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": answer}], **others}


def write_rows(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))


@pytest.fixture
def pictures(tmp_path) -> dict[str, str]:
    """A picture of each kind that the input accepts, by kind."""
    folder = tmp_path / "media"
    folder.mkdir()
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 900, 3), np.uint8))
    kinds = {
        "grey16.png": Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16),
        "float.tiff": Image.fromarray(np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64)),
        "alpha.png": Image.new("RGBA", (8, 8), (0, 0, 0, 0)),
        "palette.gif": rgb.convert("P"),
        "cmyk.jpg": rgb.convert("CMYK"),
        "plain.bmp": rgb,
        "plain.ppm": rgb,
        "plain.webp": rgb,
        "bilevel.tiff": rgb.convert("1"),
        "long.png": Image.new("RGB", (4000, 30)),
    }
    for name, image in kinds.items():
        image.save(folder / name)
    return {name: f"media/{name}" for name in kinds}


@pytest.fixture
def settings(tmp_path, pictures) -> Config:
    """A finished run of the demo's last two phases in tmp_path / "run", with one training and one held-out source."""
    values = get_config()
    values.curriculum = ("mid_256", "sft")
    values.phases = {name: values.phases[name] for name in values.curriculum}
    for phase in values.phases.values():
        phase.mixture = {"train": 1.0}
    sources = {
        name: {"format": "jsonl", "path": str(tmp_path / f"{name}.jsonl"), "media_root": str(tmp_path)} for name in ("train", "count")
    }
    values.data.sources, values.data.heldout = {"train": sources["train"]}, {"count": sources["count"]}
    values.run.directory = str(tmp_path / "run")
    settings = Config.from_config_dict(values)
    Image.new("RGB", (32, 32), (200, 0, 0)).save(tmp_path / "trained.png")
    write_rows(tmp_path / "train.jsonl", [row(["trained.png"]), row(["trained.png"], "3")])
    write_rows(tmp_path / "count.jsonl", [row([name]) for name in pictures.values()])
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.json").write_text(settings.to_json())
    lines = [
        {
            "step": step,
            "phase": "mid_256",
            "tokens": 100 * step,
            "loss": 2.0,
            "source_loss": {"train": 2.0},
            "tokens_per_second": 50.0 + step,
        }
        for step in range(1, 4)
    ]
    write_rows(directory / "metrics.jsonl", lines)
    for number, phase in enumerate(values.curriculum):
        evaluate(directory, number, phase, [f"count.jsonl:{line}" for line in range(1, len(pictures) + 1)])
    return settings


def evaluate(directory: pathlib.Path, number: int, phase: str, keys: list[str]) -> pathlib.Path:
    """Writes an evaluation in which each key is of a family of its own, so that each has a card."""
    answers = tuple(AnswerRecord(f"family {place}", key, "2", "2", "3") for place, key in enumerate(keys))
    scores = {answer.family: FamilyResult(1, 1.0, 0.0, 1.0) for answer in answers}
    path = directory / "evaluations" / f"{number:02d}-{phase}.json"
    write_evaluation(path, EvaluationRecord(phase, 60.0, answers, scores))
    return path


def with_families(settings: Config) -> None:
    """Gives the held-out rows the families of `evaluate`."""
    path = pathlib.Path(settings.data.heldout["count"].path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_rows(path, [each | {"family": f"family {place}"} for place, each in enumerate(rows)])


def test_every_picture_that_the_input_accepts_is_shown(settings, pictures):
    with_families(settings)
    page, report = report_run(settings)
    assert not report.problems
    assert len(report.cards) == len(pictures)
    for card, name in zip(report.cards, pictures, strict=True):
        assert card.note == "" and len(card.images) == 1, (name, card.note)
        image = Image.open(io.BytesIO(card.images[0]))
        assert image.format in ("PNG", "JPEG") and max(image.size) <= SIDE and len(card.images[0]) <= PICTURE_BYTES
    assert page.stat().st_size < len(pictures) * 1.4 * PICTURE_BYTES + 100_000


def test_a_picture_that_cannot_be_shown_is_a_note(settings, tmp_path, pictures):
    (tmp_path / pictures["alpha.png"]).unlink()
    (tmp_path / pictures["plain.bmp"]).write_bytes(b"BM")
    path = pathlib.Path(settings.data.heldout["count"].path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] = row([pictures["long.png"]] * (PICTURES + 3))
    write_rows(path, rows)
    with_families(settings)
    page, report = report_run(settings)
    notes = {name: card.note for name, card in zip(pictures, report.cards, strict=True) if card.note}
    assert set(notes) == {"grey16.png", "alpha.png", "plain.bmp"}
    assert notes["grey16.png"] == "3 more images are not shown"
    assert "no such file" in notes["alpha.png"] and "plain.bmp" in notes["plain.bmp"]
    assert "no such file" in page.read_text()


def test_a_sample_that_is_gone_is_named(settings):
    with_families(settings)
    path = pathlib.Path(settings.data.heldout["count"].path)
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[:-1]))
    _, report = report_run(settings)
    assert len(report.cards) == len(rows) - 1
    assert [problem for problem in report.problems if f"count.jsonl:{len(rows)} " in problem]
    path.unlink()
    _, report = report_run(settings)
    assert report.cards == () and any("source count is not shown" in problem for problem in report.problems)


def test_damaged_files_are_a_sentence_each_and_the_rest_is_shown(settings, caplog):
    with_families(settings)
    directory = pathlib.Path(settings.run.directory)
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    lines[1] = lines[1][:20]
    lines[2] = '{"step": 3, "phase": "sft"}'
    (directory / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "lo']))
    (directory / "evaluations" / "00-mid_256.json").write_text('{"phase": "mid_256", ')
    (directory / "config.json").write_text("{")
    (directory / "run.json").write_text('{"starts": [{"device": 1}]}')
    with caplog.at_level(logging.WARNING):
        page, report = report_run(settings)
    expected = (
        "metrics.jsonl, line 2: not JSON",
        "metrics.jsonl, line 3: field tokens is missing",
        "00-mid_256.json, line 1",
        "config.json is not JSON",
        "run.json is damaged",
    )
    for sentence in expected:
        assert sum(sentence in problem for problem in report.problems) == 1, sentence
        assert sentence in page.read_text() and sentence in caplog.text
    assert len(report.problems) == len(expected)
    assert [row.step for row in report.metrics] == [1] and [results.phase for results in report.results] == ["sft"]
    assert all("\n" not in problem for problem in report.problems)


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{}", '{"phase": 3}', "\\xff", '{"phase": "sft", "seconds": 1, "answers": {}, "scores": {}}'),
        '{"phase": "sft", "seconds": NaN, "answers": [], "scores": {}}',
        '{"phase": "sft", "seconds": 1, "answers": [{"family": 1}], "scores": {}}',
        '{"phase": "sft", "seconds": 1, "answers": [], "scores": {"a": {"questions": 0, "exact_match": 1, "majority": 1}}}',
        '{"phase": "sft", "seconds": 1, "answers": [], "scores": {"a": {"questions": 1, "exact_match": 2, "majority": 1}}}',
    ],
)
def test_a_last_evaluation_that_is_no_record_leaves_the_one_before(settings, content):
    (pathlib.Path(settings.run.directory) / "evaluations" / "01-sft.json").write_text(content)
    page, report = report_run(settings)
    assert [results.phase for results in report.results] == ["mid_256"]
    assert "After phase mid_256" in page.read_text() and any("01-sft.json" in problem for problem in report.problems)


def test_many_damaged_lines_are_counted(settings):
    path = pathlib.Path(settings.run.directory) / "metrics.jsonl"
    path.write_text("x\n" * 1000 + path.read_text())
    _, report = report_run(settings)
    assert len(report.metrics) == 3
    assert any("995 more" in problem for problem in report.problems) and len(report.problems) < 30


def test_a_run_that_evaluated_nothing_has_a_report(settings):
    for path in (pathlib.Path(settings.run.directory) / "evaluations").iterdir():
        path.unlink()
    page, report = report_run(settings)
    assert report.results == () and report.seconds is None and "Loss" in page.read_text()


def test_speed_parameters_and_facts(settings):
    directory = pathlib.Path(settings.run.directory)
    _, report = report_run(settings)
    assert [phase.tokens_per_second for phase in report.phases] == [52.0, None] and report.starts == ()
    assert report.parameters == settings.model.parameters()
    write_facts(directory, RunFacts.now(report.parameters))
    _, report = report_run(settings)
    assert report.starts[0].device_kind == "cpu" and json.loads(report.configuration) == settings.resolved()


def test_skipped_samples_are_counted_over_processes(settings):
    directory = pathlib.Path(settings.run.directory)
    lost = {"source": "train", "key": "train.jsonl:1", "reason": "missing_file", "message": "no such file"}
    long = {
        "source": "train",
        "key": "train.jsonl:2",
        "reason": "too_long",
        "message": "it needs 700 of context, phase sft has 512: raise it",
    }
    planned = {"source": "train", "key": "train.jsonl:2", "reason": "too_long", "message": "does not fit a row of phase 'mid_256' ({})"}
    write_rows(directory / "skipped.jsonl", [lost, long])
    write_rows(directory / "skipped.1.jsonl", [lost, planned])
    (directory / "skipped_heldout.jsonl").write_text(json.dumps(lost | {"source": "count"}) + "\nbroken\n")
    _, report = report_run(settings)
    found = {(each.part, each.source, each.reason, each.phase): (each.samples, each.share) for each in report.skipped}
    assert found == {
        ("training", "train", "missing_file", ""): (1, 0.5),
        ("training", "train", "too_long", "sft"): (1, 0.5),
        ("training", "train", "too_long", "mid_256"): (1, 0.5),
        ("held-out", "count", "missing_file", ""): (1, 0.1),
    }
    assert any("skipped_heldout.jsonl, line 2" in problem for problem in report.problems)


def test_held_out_media_that_training_reads_are_warned_of(settings, tmp_path, pictures, caplog):
    _, report = report_run(settings)
    assert report.warnings == ()
    write_rows(tmp_path / "train.jsonl", [row(["trained.png"]), row([pictures["plain.bmp"], pictures["long.png"]])])
    with caplog.at_level(logging.WARNING):
        page, report = report_run(settings)
    (warning,) = report.warnings
    assert warning.startswith("2 of held-out source count's samples show media of training source train, such as count.jsonl:6: ")
    assert pictures["plain.bmp"] in warning and warning in caplog.text and "plain.bmp" in page.read_text()


def test_one_file_as_training_and_held_out_source(settings, tmp_path):
    source = dataclasses.replace(settings.data.sources["train"], name="count")
    same = dataclasses.replace(settings, data=dataclasses.replace(settings.data, heldout={"count": source}))
    _, report = report_run(same)
    assert report.warnings == ("held-out source count reads the file of training source train: its samples are trained on",)


def test_media_in_a_dataset_are_compared_by_name_and_content(settings, tmp_path, pictures):
    from data_pipelines.convert import VERSION, convert
    from data_pipelines.failures import FailurePolicy

    (tmp_path / "other" / "media").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "other" / pictures["plain.ppm"])  # the name of a held-out one, another picture
    rows = [row([pictures["plain.bmp"]]), row(["trained.png"])]
    warnings = []
    for folder, content in (("same", rows), ("differs", [row([pictures["plain.ppm"]])])):
        write_rows(tmp_path / f"{folder}.jsonl", content)
        root = tmp_path if folder == "same" else tmp_path / "other"
        source = dataclasses.replace(
            settings.data.sources["train"], name=folder, path=str(tmp_path / f"{folder}.jsonl"), media_root=str(root)
        )
        convert(source, tmp_path / "tfds", 1 << 20, FailurePolicy())
        tfds = dataclasses.replace(source, format="tfds", path=str(tmp_path / "tfds" / folder / VERSION), media_root="")
        changed = dataclasses.replace(settings, data=dataclasses.replace(settings.data, sources={folder: tfds}))
        warnings.append(report_run(changed)[1].warnings)
    assert len(warnings[0]) == 1 and "plain.bmp" in warnings[0][0]
    assert warnings[1] == ()


def test_a_large_source_is_compared_in_part_and_says_so(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(leaks, "MOST_SAMPLES", 3)
    write_rows(tmp_path / "train.jsonl", [row(["trained.png"])] * 7)
    _, report = report_run(settings)
    assert report.warnings == (
        "of held-out source count only 1 in 4 samples was looked at for media that are held out and trained on",
        "of training source train only 1 in 3 samples was looked at for media that are held out and trained on",
    )


def test_thumbnails_are_bounded():
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    file = small_file(noise)
    assert file is not None and len(file) <= PICTURE_BYTES and max(Image.open(io.BytesIO(file)).size) == SIDE
    flat = small_file(np.full((10, 10, 3), 7, np.uint8))
    assert flat is not None and np.asarray(Image.open(io.BytesIO(flat))).tolist() == np.full((10, 10, 3), 7).tolist()  # small: without loss
    assert cut("a" * 10, 4) == "aaaa… (6 more characters)" and cut("abc", 3) == "abc"
