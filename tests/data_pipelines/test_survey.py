"""Rows looked at without a configuration: what is usable, how long it is, and a held-out part that shares nothing with the rest."""

import json
import pathlib

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines.documents import build_document
from data_pipelines.schema import DataError, PhaseSettings, SourceSettings
from data_pipelines.sources import open_source
from data_pipelines.survey import NEVER_FITS, Survey, choose_heldout, read_rows, write_rows
from data_pipelines.text.tokenizers import load_tokenizer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
PHASE = PhaseSettings("p", 1, 512, 256, 16, 8, 1024, 32 * 1024, 0, (1.0, 2.0), 9 * 1024, {})


def row(question: str, answer: str, **media: object) -> dict:
    return media | {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def opened(folder: pathlib.Path, **files: list):
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n\n" for each in rows))  # every other line is empty
    return [
        open_source(SourceSettings(name=name, format="jsonl", path=str(folder / f"{name}.jsonl"), media_root=str(folder))) for name in files
    ]


def pictures(folder: pathlib.Path, *names: str) -> None:
    for place, name in enumerate(names):
        Image.new("RGB", (64 + 32 * place, 64), "red").save(folder / name)


def test_lengths_are_those_of_the_documents(tmp_path: pathlib.Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    rows = [
        row("<image>\nWhat?", "A wall.", image="a.png"),
        row("1 + 1?", "2"),
        row("<image><image>\nSame?", "No, not at all.", images=["b.png", "c.png"]),
        row("<image>\nWhat?", "A wall.", image="missing.png"),
        row("What?", "A wall.", image="a.png"),
    ]
    sources = opened(tmp_path, rows=rows)
    found, left_out = read_rows(sources)
    assert [(each.key, each.reason) for each in left_out] == [("rows.jsonl:7", "missing_file"), ("rows.jsonl:9", "image_marks")]
    tokenizer = load_tokenizer(GOLDEN / "tokenizer.json", True)
    survey, unlearnable = Survey.of(found, ["rows"], tokenizer)
    assert unlearnable == [] and survey.has_media.tolist() == [True, False, True]
    expected = [build_document(each.sample, PHASE, tokenizer, 0) for each in found]
    lengths = [(len(document.tokens), len(document.visual), len(document.grids)) for document in expected]
    assert survey.lengths(PHASE).tolist() == [list(each) for each in lengths]
    assert survey.answers.tolist() == [len(tokenizer.encode(text)) + 1 for text in ("A wall.", "2", "No, not at all.")]


def test_a_clip_fits_no_phase_without_frames(tmp_path: pathlib.Path) -> None:
    _write_clip(tmp_path / "clip.mp4")
    found, _ = read_rows(opened(tmp_path, rows=[row("<video>\nWhat?", "A ball.", video="clip.mp4")]))
    survey, _ = Survey.of(found, ["rows"], load_tokenizer(GOLDEN / "tokenizer.json", True))
    assert survey.lengths(PHASE).tolist() == [[NEVER_FITS] * 3]


def _write_clip(path: pathlib.Path) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        for shade in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * shade, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


def test_rows_that_share_a_picture_or_all_their_text_stay_together(tmp_path: pathlib.Path) -> None:
    names = [f"{number}.png" for number in range(30)]
    pictures(tmp_path, *names)
    (tmp_path / "linked.png").symlink_to("0.png")
    rows = [row("<image>\nA?", str(number), image=names[number % 30]) for number in range(90)]
    rows += [row("<image><image>\nA?", "x", images=["0.png", "1.png"]), row("<image>\nA?", "y", image="linked.png")]
    texts = [row("Same?", str(number % 20)) for number in range(40)]
    found, _ = read_rows(opened(tmp_path, pictures=rows, texts=texts))
    heldout = choose_heldout(found, 2, 0.2, 1000)
    assert heldout.tolist() == choose_heldout(found, 2, 0.2, 1000).tolist(), "the same each time"
    media = [{image.path for image in each.sample.images} for each in found]
    held, kept = (set().union(*(media[i] for i in np.flatnonzero(part))) for part in (heldout, ~heldout))
    assert held and kept and not held & kept
    answers = [{found[i].sample.turns for i in np.flatnonzero(part) if found[i].source == 1} for part in (heldout, ~heldout)]
    assert answers[0] and answers[1] and not answers[0] & answers[1]
    for place, total in ((0, 92), (1, 40)):
        count = sum(found[i].source == place for i in np.flatnonzero(heldout))
        assert 0.1 * total <= count <= 0.2 * total


def test_the_smallest_group_is_held_out_where_all_are_large(tmp_path: pathlib.Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    rows = [row("<image>\nA?", str(number), image="b.png" if number < 4 else "a.png") for number in range(20)]
    found, _ = read_rows(opened(tmp_path, rows=rows))
    assert np.flatnonzero(choose_heldout(found, 1, 0.1, 1000)).tolist() == [0, 1, 2, 3]


def test_rows_that_all_share_a_picture_cannot_be_divided(tmp_path: pathlib.Path) -> None:
    pictures(tmp_path, "a.png")
    found, _ = read_rows(opened(tmp_path, rows=[row("<image>\nA?", str(number), image="a.png") for number in range(9)]))
    with pytest.raises(DataError, match="the 9 usable rows share their files or are equal"):
        choose_heldout(found, 1, 0.1, 1000)


@pytest.mark.parametrize("as_list", [True, False])
def test_rows_are_copied_as_they_are(as_list: bool, tmp_path: pathlib.Path) -> None:
    rows = [row("A?", "é😀"), row("B?", "2", extra={"kept": [1, None]}), row("C?", "3")]
    lines = [json.dumps(each, ensure_ascii=False) for each in rows]
    content = f"[{', '.join(lines)}]" if as_list else "\r\n\r\n".join(lines)
    (tmp_path / "rows.json").write_bytes(f"\ufeff{content}".encode())
    write_rows(tmp_path / "rows.json", [(tmp_path / "a.jsonl", {0, 2}), (tmp_path / "b.jsonl", {1})])
    written = [[json.loads(line) for line in (tmp_path / name).read_bytes().splitlines()] for name in ("a.jsonl", "b.jsonl")]
    assert written == [[rows[0], rows[2]], [rows[1]]]
