import dataclasses
import json
import shutil

import numpy as np
import pytest
import small_corpus
from PIL import Image
from small_corpus import phase, tokenizer

from data_pipelines.convert import FailurePolicy, convert
from data_pipelines.documents import build_document, measure
from data_pipelines.index import lengths
from data_pipelines.index.lengths import NEVER_FITS, LengthIndex, sample_seed
from data_pipelines.media import images
from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources import open_source

WIDE = dict(context=1 << 20, visual_tokens=1 << 20, images=1000)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root)
    return root


@pytest.fixture
def built(monkeypatch):
    """Counts the builds."""
    calls = []
    build = lengths._build
    monkeypatch.setattr(lengths, "_build", lambda *arguments: calls.append(1) or build(*arguments))
    return calls


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
    found = LengthIndex.open(source, tokenizer(), tmp_path / "a").lengths(settings, seed)
    assert found.dtype == np.int64 and found.shape == (12, 4)
    assert (found == LengthIndex.open(copy, tokenizer(), tmp_path / "b").lengths(settings, seed)).all()
    for index in range(12):
        document = build_document(source[index], settings, tokenizer(), sample_seed(seed, "mixed", index))
        assert found[index].tolist() == [len(document.tokens), len(document.visual), len(document.grids), 1]
    assert len(set(found[:6, 1].tolist())) > 1 and found[8, 2] > 1


def test_the_seed_decides_the_frames(root, tmp_path):
    index = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path)
    settings = phase(**WIDE, frames=100, frames_per_second=(0.5, 6.0))
    found = np.array([index.lengths(settings, seed) for seed in range(6)])
    assert (found[:, :8] == found[0, :8]).all() and (found[:, 10:] == found[0, 10:]).all()
    assert len(np.unique(found[:, 9, 2])) > 1
    assert sample_seed(1, "a", 2) != sample_seed(1, "a", 3) != sample_seed(1, "b", 3) != sample_seed(2, "b", 3)


def test_a_phase_that_takes_no_video_or_image_never_fits_them(root, tmp_path):
    index = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path)
    found = index.lengths(phase(frames=0, **WIDE), 0)
    assert (found[8:10] == NEVER_FITS).all() and (found[:8] < NEVER_FITS).all()
    text_only = index.lengths(phase(visual_tokens=0, images=0, frames=0, min_pixels=0, max_pixels=0), 0)
    assert (text_only[:10] == NEVER_FITS).all() and (text_only[10:] == found[10:]).all()


def broken_corpus(root):
    """Good rows and one of every kind that cannot be used."""
    media = root / "media"
    small_corpus.write_image(media / "good.png", 64, 64)
    small_corpus.write_image(media / "long.png", 2, 500)
    (media / "empty.png").touch()
    (media / "text.png").write_text("plainly not a picture")
    (media / "header.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JF")
    Image.new("1", (9_500, 9_500)).save(media / "bomb.png", compress_level=1)
    (media / "folder.png").mkdir()
    names = ["none.png", "empty.png", "text.png", "header.jpg", "bomb.png", "long.png", "folder.png", "../x.png"]
    rows = [{"image": name, "conversations": small_corpus.turns("<image>?")} for name in ["good.png", *names]]
    rows += [
        "{broken",
        {"conversations": [{"from": "robot", "value": "x"}]},
        {"conversations": small_corpus.turns("<image>?")},
        {"video": "text.png", "conversations": small_corpus.turns("<video>?")},
        {"conversations": small_corpus.turns("fine")},
    ]
    return small_corpus.write_jsonl(root / "mixed.jsonl", rows)


REASONS = {
    1: "missing_file", 2: "empty_file", 3: "not_an_image", 4: "not_an_image", 5: "bomb", 6: "aspect_ratio", 7: "unreadable_file",
    8: "path_escapes_root", 9: "broken_json", 10: "unknown_role", 11: "image_marks", 12: "broken_video",
}  # fmt: skip


def test_unusable_samples_are_excluded_counted_and_named(tmp_path):
    index = LengthIndex.open(small_corpus.jsonl(broken_corpus(tmp_path)), tokenizer(), tmp_path / "index")
    assert index.usable.tolist() == [0, 13] and len(index) == 14
    assert index.unusable == {reason: list(REASONS.values()).count(reason) for reason in REASONS.values()}
    named = {entry["key"]: entry for entry in map(json.loads, index.log.read_text().splitlines())}
    assert {key: entry["reason"] for key, entry in named.items()} == {f"mixed.jsonl:{i + 1}": reason for i, reason in REASONS.items()}
    assert "mixed.jsonl, line 10" in named["mixed.jsonl:10"]["message"]
    found = index.lengths(phase(), 0)
    assert (found[list(REASONS)] == 0).all() and (found[[0, 13], 0] > 0).all()


def test_a_source_without_a_usable_sample_is_refused(tmp_path):
    path = small_corpus.write_jsonl(tmp_path / "mixed.jsonl", ["{", "{"])
    (tmp_path / "media").mkdir()
    with pytest.raises(DataError, match="no sample of source 'mixed' can be used \\(2 broken_json\\)"):
        LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path)


def test_the_index_is_reused_until_something_changes(root, tmp_path, built, monkeypatch):
    shutil.copy(root / "mixed.jsonl", tmp_path / "mixed.jsonl")

    def open_index(token=None):
        source = small_corpus.jsonl(tmp_path / "mixed.jsonl", media_root=root / "media")
        return LengthIndex.open(source, token or tokenizer(), tmp_path / "index")

    first = open_index().lengths(phase(), 0)
    assert (open_index().lengths(phase(), 0) == first).all() and len(built) == 1
    names = sorted(path.name for path in (tmp_path / "index").iterdir())
    assert names[:2] == ["mixed.lengths.npz", "mixed.unusable.jsonl"]
    assert len(names) == 3 and names[2].startswith("mixed.videos-")

    class Other:  # the same tokenizer by another name
        fingerprint = "other"
        special, encode = tokenizer().special, tokenizer().encode

    open_index(Other())
    assert len(built) == 2
    open_index()
    assert len(built) == 3
    with (tmp_path / "mixed.jsonl").open("a") as file:
        file.write(json.dumps({"conversations": small_corpus.turns("one more")}) + "\n")
    assert len(open_index()) == 13 and len(built) == 4
    monkeypatch.setattr(lengths, "VERSION", lengths.VERSION + 1)
    open_index()
    assert len(built) == 5
    (tmp_path / "index/mixed.lengths.npz").write_bytes(b"PK\x03\x04 cut short")
    assert len(open_index()) == 13 and len(built) == 6


def test_a_build_that_is_killed_leaves_no_index(root, tmp_path, built, monkeypatch):
    source, calls, size = small_corpus.jsonl(root / "mixed.jsonl"), [], images.image_size

    def killed(media):
        calls.append(media)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return size(media)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(images, "image_size", killed)
        LengthIndex.open(source, tokenizer(), tmp_path, threads=1)
    assert not list(tmp_path.iterdir())
    assert len(LengthIndex.open(source, tokenizer(), tmp_path).usable) == 12 and len(built) == 2


def test_any_number_of_threads_builds_the_same(root, tmp_path):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    for threads in (1, 8):
        LengthIndex.open(source, tokenizer(), tmp_path / str(threads), threads)
    one, eight = (dict(np.load(tmp_path / name / "mixed.lengths.npz", allow_pickle=False)) for name in ("1", "8"))
    assert one.keys() == eight.keys() and all((one[name] == eight[name]).all() for name in one)


def test_lengths_of_videos_are_counted_once_for_each_phase_and_seed(root, tmp_path, monkeypatch):
    def lengths(settings, seed):
        return LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path).lengths(settings, seed)

    first = lengths(phase(), 0)
    calls = []
    monkeypatch.setattr("data_pipelines.index.lengths.measure", lambda *a: calls.append(a) or measure(*a))
    assert (lengths(phase(), 0) == first).all() and not calls
    lengths(phase(), 1)
    of_seed = len(calls)
    assert of_seed > 0
    lengths(dataclasses.replace(phase(), frames=1), 0)
    assert len(calls) == 2 * of_seed


def test_a_text_phase_takes_no_media(root, tmp_path):
    index = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path)
    settings = phase()
    text = dataclasses.replace(settings, visual_tokens=0, images=0, frames=0, min_pixels=0, max_pixels=0, frame_pixels=0)
    with_media = index.lengths(settings, 0)[:, 2] > 0
    assert with_media.any() and not with_media.all()
    found = index.lengths(text, 0)
    assert (found[with_media, 0] == np.iinfo(np.int32).max).all()
    assert (found[~with_media] == index.lengths(settings, 0)[~with_media]).all()


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
