"""What a source's `keep` leaves out: found in the index's columns, equal to what each sample's own measures say."""

import dataclasses
import json

import numpy as np
import pytest
import small_corpus
from small_corpus import WIDE, phase, tokenizer

from data_pipelines.index.lengths import LengthIndex
from data_pipelines.media import images, video
from data_pipelines.planning.planner import InputState, Planner
from data_pipelines.planning.too_long import FILTERED
from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources import open_source


def sizes(sample):
    """(height, width) of each image and clip."""
    return [images.image_size(image) for image in sample.images] + [(info.height, info.width) for info in map(video.probe, sample.clips)]


def kept(index, settings=None):
    """The numbers of the samples that are not left out."""
    every = index.lengths(settings or phase(**WIDE), 0)
    by_slice, by_number = every[:], every[np.arange(len(every))[::-1]][::-1]
    assert (by_slice == by_number).all()
    return np.flatnonzero(by_slice[:, 0] != FILTERED).tolist()


def opened(source, folder, *keep):
    return LengthIndex.open(open_source(dataclasses.replace(source.settings, keep=keep)), tokenizer(), folder)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("images >= 1", lambda sample: len(sample.images) >= 1),
        ("clips == 0", lambda sample: not sample.clips),
        ("side >= 64", lambda sample: all(min(size) >= 64 for size in sizes(sample))),
        ("pixels < 8000", lambda sample: all(h * w < 8000 for h, w in sizes(sample))),
        ("aspect <= 1.4", lambda sample: all(max(size) / min(size) <= 1.4 for size in sizes(sample))),
        ("seconds > 5", lambda sample: all(video.probe(clip).duration > 5 for clip in sample.clips)),
    ],
)
def test_measures_leave_out_what_the_samples_say(root, tmp_path, condition, holds):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    wanted = [number for number in range(len(source)) if holds(source[number])]
    assert 0 < len(wanted) < len(source), "the condition must divide the corpus"
    assert kept(opened(source, tmp_path, condition)) == wanted


def test_conditions_on_measures_need_no_new_index_and_all_must_hold(root, tmp_path, inspected):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    everything = LengthIndex.open(source, tokenizer(), tmp_path)
    tokens = everything.lengths(phase(**WIDE), 0)[:]
    inspected.clear()
    both = opened(source, tmp_path, "images >= 1", "tokens >= 30")
    assert not inspected and both.digest() == everything.digest()
    alone = [set(kept(opened(source, tmp_path, one))) for one in ("images >= 1", "tokens >= 30")]
    assert set(kept(both)) == alone[0] & alone[1]
    left = kept(both)
    assert (both.lengths(phase(**WIDE), 0)[:][left] == tokens[left]).all(), "the others are as long as before"


def test_rows_are_left_out_by_their_columns_and_never_opened(tmp_path, inspected):
    rows = [{"text": f"a text {number}", "lang": ("en", "de", "fr")[number % 3], "image_score": number / 10} for number in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(SourceSettings("rows", "jsonl", str(tmp_path / "rows.jsonl")))
    index = opened(source, tmp_path / "index", "column.lang in en, fr", "column.image_score > 0.3")
    assert kept(index) == [5, 6, 8] and index.filtered == 6 and not index.unusable and not index.log.read_text()
    assert len(inspected) == 3
    inspected.clear()
    again = opened(source, tmp_path / "index", "column.lang in en, fr", "column.image_score > 0.3", "tokens < 1000")
    assert not inspected and kept(again) == [5, 6, 8] and again.digest() == index.digest()
    other = opened(source, tmp_path / "index", "column.lang in de", "column.image_score >= 0")
    assert kept(other) == [1, 4, 7] and other.digest() != index.digest()


def test_nothing_left_is_refused_with_the_conditions(root, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a text"}\n')
    source = open_source(SourceSettings("rows", "jsonl", str(tmp_path / "rows.jsonl")))
    with pytest.raises(DataError, match="1 filtered"):
        opened(source, tmp_path / "a", "column.langauge in en")
    index = opened(source, tmp_path / "b", "images > 3")
    settings = phase(mixture={index.name: 1.0})
    with pytest.raises(DataError, match="`keep` of source 'rows' leaves none of its 1 usable samples"):
        Planner(0, settings, [index], 0, InputState(0, 0, 0, (0,)))


def test_planned_rows_hold_kept_samples_alone(root, tmp_path):
    index = opened(small_corpus.jsonl(root / "mixed.jsonl"), tmp_path, "images == 1")
    settings = phase(**WIDE, mixture={index.name: 1.0}, rows=8)
    planner = Planner(0, settings, [index], 0, InputState(0, 0, 0, (0,)))
    found = {draw.sample for row in range(8) for draw in planner.row(row)}
    assert found == set(kept(index)) and planner.too_long[index.name].filtered == len(index) - len(found)
