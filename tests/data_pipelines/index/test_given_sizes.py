"""Sizes of pictures that rows give: taken by the index without opening a picture, held against the picture when it is decoded."""

import dataclasses
import json

import pytest
import small_corpus
from PIL import Image
from small_corpus import WIDE, phase, tokenizer

from data_pipelines.failures import FailurePolicy
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.loading.loader import RowLoader
from data_pipelines.media import images
from data_pipelines.schema import SampleError
from data_pipelines.sources import open_source

SIZES = {"a.png": (64, 96), "b.png": (48, 160)}


@pytest.fixture
def source(tmp_path):
    """Rows of one and of two pictures, with their sizes."""
    (tmp_path / "media").mkdir()
    for name, (height, width) in SIZES.items():
        Image.new("RGB", (width, height)).save(tmp_path / "media" / name)
    rows = [{"image": "a.png", "height": 64, "width": 96, "conversations": small_corpus.turns("<image>\nWhat?", "A thing.")}] * 6
    rows += [
        {
            "image": ["a.png", "b.png"],
            "height": [64, 48],
            "width": [96, 160],
            "conversations": small_corpus.turns("<image><image>?", "Two."),
        }
    ]
    rows += [{"conversations": small_corpus.turns("And without?", "None.")}]
    small_corpus.write_jsonl(tmp_path / "rows.jsonl", rows)
    opened = small_corpus.jsonl(tmp_path / "rows.jsonl")
    return open_source(dataclasses.replace(opened.settings, given_sizes=True))


def rewritten(source, tmp_path, **changes):
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    small_corpus.write_jsonl(tmp_path / "rows.jsonl", [{**rows[0], **changes}, *rows[1:]])
    return open_source(source.settings)


def test_no_picture_is_opened_to_index_it_and_lengths_are_the_same(source, tmp_path, monkeypatch):
    plain = LengthIndex.open(small_corpus.jsonl(tmp_path / "rows.jsonl"), tokenizer(), tmp_path / "plain").lengths(phase(**WIDE), 0)[:]
    monkeypatch.setattr(images, "open_media", lambda media: pytest.fail(f"{media.name} was opened"))
    given = LengthIndex.open(source, tokenizer(), tmp_path / "given").lengths(phase(**WIDE), 0)[:]
    assert (given == plain).all() and not source.ignored


def test_a_missing_file_is_noticed_all_the_same(source, tmp_path):
    (tmp_path / "media" / "b.png").unlink()
    index = LengthIndex.open(source, tokenizer(), tmp_path / "index")
    assert index.unusable == {"missing_file": 1}


def test_a_wrong_size_fails_when_it_is_decoded(source, tmp_path):
    wrong = rewritten(source, tmp_path, width=500)
    index = LengthIndex.open(wrong, tokenizer(), tmp_path / "index")
    assert not index.unusable
    settings = phase(context=2048, visual_tokens=2048, images=32, mixture={wrong.name: 1.0}, rows=1, rows_per_step=1)
    loader = RowLoader([wrong], [index], [settings], tokenizer(), 0, FailurePolicy(max_rate=1.0), tmp_path / "log.jsonl", 1)
    list(loader.batches(loader.start()))
    assert set(loader.failures.reasons) == {"changed"}
    assert "its row gives another size than its picture has (given_sizes)" in (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize("change", [{"width": None}, {"width": "96"}, {"width": [96, 96]}, {"height": 0}, {"height": 64.0}])
def test_rows_without_sizes_are_refused(source, tmp_path, change):
    with pytest.raises(SampleError, match=r"must be the pixels of its 1 picture \(the source has given_sizes\)"):
        rewritten(source, tmp_path, **change)[0]
