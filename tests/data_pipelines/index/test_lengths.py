import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import small_corpus
from small_corpus import WIDE, phase, tokenizer

from data_pipelines.convert import FailurePolicy, convert
from data_pipelines.documents import build_document
from data_pipelines.index.lengths import LengthIndex, sample_seed
from data_pipelines.planning.planner import NEVER_FITS
from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources import open_source


@pytest.mark.parametrize(
    "settings",
    [
        phase(**WIDE),
        phase(**WIDE, min_pixels=256 * 256, max_pixels=512 * 512, frames=3),
        phase(**WIDE, min_pixels=32 * 32, max_pixels=64 * 64, frames=20, frames_per_second=(0.5, 30.0), frame_pixels=32 * 32),
    ],
)
@pytest.mark.parametrize("seed", [0, 5])
def test_lengths_are_those_of_the_documents(root, tmp_path, settings, seed):
    """Images of several sizes, several images, videos, text: equal to what decoding gives, from both formats."""
    source = small_corpus.jsonl(root / "mixed.jsonl")
    folder, _ = convert(
        SourceSettings("mixed", "jsonl", str(root / "mixed.jsonl"), str(root / "media")), tmp_path, 1 << 30, FailurePolicy()
    )
    copy = open_source(SourceSettings("mixed", "tfds", str(folder)))
    found = LengthIndex.open(source, tokenizer(), tmp_path / "a").lengths(settings, seed)[:]
    assert found.dtype == np.int64 and found.shape == (12, 4)
    assert (found == LengthIndex.open(copy, tokenizer(), tmp_path / "b").lengths(settings, seed)[:]).all()
    for index in range(12):
        document = build_document(source[index], settings, tokenizer(), sample_seed(seed, "mixed", index))
        assert found[index].tolist() == [len(document.tokens), len(document.visual), len(document.grids), 1]
    assert len(set(found[:6, 1].tolist())) > 1 and found[8, 2] > 1


def test_the_seed_decides_the_frames(root, tmp_path):
    index = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path)
    settings = phase(**WIDE, frames=100, frames_per_second=(0.5, 6.0))
    found = np.array([index.lengths(settings, seed)[:] for seed in range(6)])
    assert (found[:, :8] == found[0, :8]).all() and (found[:, 10:] == found[0, 10:]).all()
    assert len(np.unique(found[:, 9, 2])) > 1
    assert sample_seed(1, "a", 2) != sample_seed(1, "a", 3) != sample_seed(1, "b", 3) != sample_seed(2, "b", 3)


def test_a_phase_that_takes_no_video_or_image_never_fits_them(root, tmp_path):
    index = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path)
    found = index.lengths(phase(frames=0, **WIDE), 0)[:]
    assert (found[8:10] == NEVER_FITS).all() and (found[:8] < NEVER_FITS).all()
    text_only = index.lengths(phase(visual_tokens=0, images=0, frames=0, min_pixels=0, max_pixels=0), 0)[:]
    assert (text_only[:10] == NEVER_FITS).all() and (text_only[10:] == found[10:]).all()


REASONS = {
    1: "missing_file", 2: "empty_file", 3: "not_an_image", 4: "not_an_image", 5: "bomb", 6: "aspect_ratio", 7: "unreadable_file",
    8: "path_escapes_root", 9: "broken_json", 10: "unknown_role", 11: "image_marks", 12: "broken_video",
}  # fmt: skip


def test_unusable_samples_are_excluded_counted_and_named(tmp_path):
    index = LengthIndex.open(small_corpus.jsonl(small_corpus.write_broken_corpus(tmp_path)), tokenizer(), tmp_path / "index")
    assert index.usable.tolist() == [0, 13] and len(index) == 14
    assert index.unusable == {reason: list(REASONS.values()).count(reason) for reason in REASONS.values()}
    named = {entry["key"]: entry for entry in map(json.loads, index.log.read_text().splitlines())}
    assert {key: entry["reason"] for key, entry in named.items()} == {f"mixed.jsonl:{i + 1}": reason for i, reason in REASONS.items()}
    assert "mixed.jsonl, line 10" in named["mixed.jsonl:10"]["message"]
    found = index.lengths(phase(), 0)[:]
    assert (found[list(REASONS)] == 0).all() and (found[[0, 13], 0] > 0).all()


def test_a_source_without_a_usable_sample_is_refused(tmp_path):
    path = small_corpus.write_jsonl(tmp_path / "mixed.jsonl", ["{", "{"])
    (tmp_path / "media").mkdir()
    with pytest.raises(DataError, match="no sample of source 'mixed' can be used \\(2 broken_json\\)"):
        LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path)


@pytest.mark.parametrize("pictures", ["faithful", "reference"])
def test_lengths_follow_the_picture_policy_and_conversions_are_counted(tmp_path, pictures):
    media = {
        "photo_with_orientation": "p.jpg",
        "webp_with_orientation": "p.webp",
        "black_strokes_on_transparency": "a.png",
        "sixteen_bit_grey": "ramp.png",
        "phone_clip_turned_90": "r.mp4",
    }
    (tmp_path / "media").mkdir()
    rows = []
    for case, name in media.items():
        shutil.copy(pathlib.Path(small_corpus.__file__).parent / "cases" / case / "media" / name, tmp_path / "media")
        kind, mark = ("video", "<video>") if name.endswith(".mp4") else ("image", "<image>")
        rows.append({kind: name, "conversations": small_corpus.turns(mark)})
    rows.append({"image": ["p.jpg", "a.png"], "conversations": small_corpus.turns("<image><image>")})
    path = small_corpus.write_jsonl(tmp_path / "mixed.jsonl", rows)
    settings = SourceSettings("mixed", "jsonl", str(path), str(tmp_path / "media"), pictures=pictures)
    copy, _ = convert(settings, tmp_path, 1 << 30, FailurePolicy())
    for source in (open_source(settings), open_source(SourceSettings("mixed", "tfds", str(copy), pictures=pictures))):
        for _ in range(2):  # measured, then read
            index = LengthIndex.open(source, tokenizer(), tmp_path / "index")
            assert index.conversions == {"orientation": 3, "transparency": 2, "grey_16_bit": 1, "rotation": 1}
            found = index.lengths(phase(**WIDE), 0)[:]
            for number in range(len(rows)):
                document = build_document(source[number], phase(**WIDE), tokenizer(), sample_seed(0, "mixed", number))
                assert found[number].tolist() == [len(document.tokens), len(document.visual), len(document.grids), 1]
                if number in (0, 4):  # 80 x 40 and 96 x 64 as stored
                    rows_of, columns = document.grids[0].tolist()
                    assert (rows_of > columns) == (pictures == "faithful")


def test_any_number_of_threads_builds_the_same_bytes(root, tmp_path):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    one, eight = (LengthIndex.open(source, tokenizer(), tmp_path / str(threads), threads).path for threads in (1, 8))
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in eight.iterdir()) and "index.json" in names
    assert all((one / name).read_bytes() == (eight / name).read_bytes() for name in names)


def test_a_text_phase_takes_no_media(root, tmp_path):
    index = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path)
    settings = phase()
    text = dataclasses.replace(settings, visual_tokens=0, images=0, frames=0, min_pixels=0, max_pixels=0, frame_pixels=0)
    with_media = index.lengths(settings, 0)[:][:, 2] > 0
    assert with_media.any() and not with_media.all()
    found = index.lengths(text, 0)[:]
    assert (found[with_media, 0] == np.iinfo(np.int32).max).all()
    assert (found[~with_media] == index.lengths(settings, 0)[:][~with_media]).all()


def test_samples_without_anything_to_learn_are_unusable(root, tmp_path):
    rows = [
        {"conversations": small_corpus.turns("Yes?")},
        {"conversations": [{"from": "human", "value": "No?"}]},
        {
            "image": "pictures/0.png",
            "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x", "is_input": True}],
        },
        {"video": "clip.mp4", "conversations": [{"from": "human", "value": "<video>"}]},
    ]
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", rows)
    index = LengthIndex.open(small_corpus.jsonl(path, "rows", root / "media"), tokenizer(), tmp_path / "index")
    assert index.usable.tolist() == [0] and index.unusable == {"no_answer": 3}
    assert [json.loads(line)["key"] for line in index.log.read_text().splitlines()] == [f"rows.jsonl:{line}" for line in (2, 3, 4)]


def test_a_digest_names_the_samples_wherever_they_lie(root, tmp_path):
    def digest(folder, lines):
        folder.mkdir()
        (folder / "mixed.jsonl").write_text("".join(lines))
        return LengthIndex.open(small_corpus.jsonl(folder / "mixed.jsonl", media_root=root / "media"), tokenizer(), folder).digest()

    lines = (root / "mixed.jsonl").read_text().splitlines(keepends=True)
    here = digest(tmp_path / "a", lines)
    assert here == digest(tmp_path / "b", lines)
    assert (
        len({here, digest(tmp_path / "c", lines[::-1]), digest(tmp_path / "d", lines[:-1]), digest(tmp_path / "e", [*lines, lines[0]])})
        == 4
    )
