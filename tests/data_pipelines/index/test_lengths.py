import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

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
from data_pipelines.schema import DataError, Interrupted, SourceSettings
from data_pipelines.sources import open_source

WIDE = dict(context=1 << 20, visual_tokens=1 << 20, images=1000)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root)
    return root


@pytest.fixture
def inspected(monkeypatch):
    """The keys of the samples that were measured, in no order."""
    keys = []
    inspect = lengths.inspect
    monkeypatch.setattr(lengths, "inspect", lambda sample, *rest: keys.append(sample.key) or inspect(sample, *rest))
    return keys


def keys_of(lines):
    return sorted(f"mixed.jsonl:{line}" for line in lines)


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


def test_the_index_is_reused_until_something_changes(root, tmp_path, inspected, monkeypatch):
    shutil.copy(root / "mixed.jsonl", tmp_path / "mixed.jsonl")

    def measured(token=None, pictures="faithful"):
        settings = SourceSettings("mixed", "jsonl", str(tmp_path / "mixed.jsonl"), str(root / "media"), pictures=pictures)
        inspected.clear()
        index = LengthIndex.open(open_source(settings), token or tokenizer(), tmp_path / "index")
        index.lengths(phase(), 0)
        assert len(index) == len(index.usable)
        return len(inspected)

    assert measured() == 12 and measured() == 0
    names = sorted(path.name for path in (tmp_path / "index").iterdir())
    assert names[:2] == ["mixed.lengths.npz", "mixed.unusable.jsonl"]
    assert len(names) == 3 and names[2].startswith("mixed.videos-")

    class Other:  # the same tokenizer by another name
        fingerprint = "other"
        special, encode = tokenizer().special, tokenizer().encode

    assert measured(Other()) == 12 and measured() == 12
    assert measured(pictures="reference") == 12 and measured(pictures="reference") == 0 and measured() == 12
    with (tmp_path / "mixed.jsonl").open("a") as file:
        file.write(json.dumps({"conversations": small_corpus.turns("one more")}) + "\n")
    assert measured() == 13
    monkeypatch.setattr(lengths, "VERSION", lengths.VERSION + 1)
    assert measured() == 13 and measured() == 0


def damage(content, kind, random):
    if kind == "cut":
        return content[: random.integers(0, len(content))]
    if kind == "zeros":
        start = random.integers(0, len(content) - 64)
        return content[:start] + bytes(64) + content[start + 64 :]
    changed = bytearray(content)
    changed[random.integers(0, len(content))] ^= 1 << random.integers(0, 8)
    return bytes(changed)


@pytest.mark.parametrize("kind", ["cut", "bit", "zeros"])
@pytest.mark.parametrize("file", ["mixed.lengths.npz", "mixed.videos-*.npz"])
def test_a_damaged_index_is_built_again_and_said_so(root, tmp_path, file, kind, capsys):
    """Whatever is damaged is noticed, or is no matter: the lengths stay right."""
    source, random, said = small_corpus.jsonl(root / "mixed.jsonl"), np.random.default_rng(0), 0
    expected = LengthIndex.open(source, tokenizer(), tmp_path).lengths(phase(), 0)
    (path,) = tmp_path.glob(file)
    whole = path.read_bytes()
    for _ in range(12):
        path.write_bytes(damage(whole, kind, random))
        assert (LengthIndex.open(source, tokenizer(), tmp_path).lengths(phase(), 0) == expected).all()
        said += f"the index {path} is damaged: it is built again (deleting it does the same)" in capsys.readouterr().err
    assert said >= 6


def test_a_changed_value_in_a_valid_archive_is_damage(root, tmp_path, capsys):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    expected = LengthIndex.open(source, tokenizer(), tmp_path).lengths(phase(), 0)
    (path,) = tmp_path.glob("mixed.videos-*.npz")
    content = dict(np.load(path))
    content["lengths"] = content["lengths"] + 1
    np.savez(path, **content)
    assert (LengthIndex.open(source, tokenizer(), tmp_path).lengths(phase(), 0) == expected).all()
    assert "is damaged" in capsys.readouterr().err


def test_an_index_that_cannot_be_read_or_written_is_refused_by_name(root, tmp_path):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    (tmp_path / "mixed.lengths.npz").mkdir()  # stands for a file without permission, which a test run by root does not notice
    with pytest.raises(DataError, match=r"cannot read the index .*mixed\.lengths\.npz.*delete it to build it again"):
        LengthIndex.open(source, tokenizer(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write the index .*mixed\.lengths\.npz.*another index_folder"):
        LengthIndex.open(source, tokenizer(), tmp_path / "file/index")


def corpus_of_forty(root, present):
    """40 rows of one image each; the first `present` files exist."""
    for number in range(present):
        small_corpus.write_image(root / f"media/{number}.png", 64, 64, number)
    rows = [{"image": f"{number}.png", "conversations": small_corpus.turns("<image>\nWhat is it?")} for number in range(40)]
    return small_corpus.write_jsonl(root / "mixed.jsonl", rows)


def test_files_that_arrive_after_the_index(tmp_path, inspected):
    path = corpus_of_forty(tmp_path, 10)

    def index():
        inspected.clear()
        return LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index")

    early = index()
    assert early.usable.tolist() == list(range(10)) and early.unusable == {"missing_file": 30}
    assert len(early.log.read_text().splitlines()) == 30
    for number in range(10, 40):
        small_corpus.write_image(tmp_path / f"media/{number}.png", 64, 64, number)
    late = index()
    assert late.usable.tolist() == list(range(40)) and not late.unusable and not late.log.read_text()
    assert sorted(inspected) == keys_of(range(11, 41))  # what was measured before is not measured again
    assert late.digest() != early.digest()
    index()
    assert not inspected


def test_images_that_are_saved_again_after_the_index(tmp_path, inspected):
    path = corpus_of_forty(tmp_path, 40)

    def index():
        inspected.clear()
        return LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index")

    before = index()
    for number in range(10):
        small_corpus.write_image(tmp_path / f"media/{number}.png", 256, 320, number)
    after = index()
    assert sorted(inspected) == keys_of(range(1, 11))
    assert (after.lengths(phase(), 0)[:10, 1] > before.lengths(phase(), 0)[:10, 1]).all()
    assert (after.lengths(phase(), 0)[10:] == before.lengths(phase(), 0)[10:]).all()
    assert after.digest() != before.digest()


def test_another_time_of_change_alone_changes_no_digest(tmp_path, inspected):
    path = corpus_of_forty(tmp_path, 40)
    before = LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index").digest()
    os.utime(tmp_path / "media/3.png", ns=(1, 1))
    for measured in (keys_of([4]), []):
        inspected.clear()
        assert LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index").digest() == before
        assert inspected == measured


def test_files_that_are_away_for_a_while_are_not_measured_again(tmp_path, inspected):
    """A folder that was not mounted: its samples are unusable as long as it is away, and cost no measuring when it is back."""
    path = corpus_of_forty(tmp_path, 40)
    before = LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index").digest()
    for number in range(1, 40):
        (tmp_path / f"media/{number}.png").rename(tmp_path / f"{number}.png")
    for _ in range(2):
        index = LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index")
        assert index.usable.tolist() == [0] and index.unusable == {"missing_file": 39} and index.digest() != before
        assert (index.lengths(phase(), 0)[1:] == 0).all()
    for number in range(1, 40):
        (tmp_path / f"{number}.png").rename(tmp_path / f"media/{number}.png")
    inspected.clear()
    assert LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index").digest() == before
    assert not inspected


def test_a_clip_that_is_saved_again_has_its_new_length(root, tmp_path):
    shutil.copytree(root / "media", tmp_path / "media")
    settings = phase(**WIDE, frames=100)

    def found():
        source = small_corpus.jsonl(root / "mixed.jsonl", media_root=tmp_path / "media")
        return source, LengthIndex.open(source, tokenizer(), tmp_path / "index").lengths(settings, 0)

    _, before = found()
    small_corpus.write_video(tmp_path / "media/clip.mp4", frames=60)
    source, after = found()
    assert after[8, 2] > before[8, 2] and (np.delete(after, 8, 0) == np.delete(before, 8, 0)).all()
    document = build_document(source[8], settings, tokenizer(), sample_seed(0, "mixed", 8))
    assert after[8].tolist() == [len(document.tokens), len(document.visual), len(document.grids), 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_a_build_that_an_exception_ends_goes_on_from_there(root, tmp_path, inspected, monkeypatch, error):
    source, header = small_corpus.jsonl(root / "mixed.jsonl"), images.header

    def fails(media):
        if "3.jpg" in media.name:
            raise error
        return header(media)

    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(images, "header", fails)
        LengthIndex.open(source, tokenizer(), tmp_path, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mixed.lengths.npz"]
    inspected.clear()
    index = LengthIndex.open(source, tokenizer(), tmp_path)
    assert len(index.usable) == 12 and sorted(inspected) == keys_of(range(4, 13))
    assert index.digest() == LengthIndex.open(source, tokenizer(), tmp_path / "whole").digest()


def test_a_signal_handler_that_raises_ends_a_build_and_keeps_the_part(root, tmp_path, inspected, monkeypatch):
    class Terminated(Exception):
        pass

    def handle(*_):
        raise Terminated

    def header_and_signal(media):
        if "3.jpg" in media.name and threading.current_thread() is not threading.main_thread():
            os.kill(os.getpid(), signal.SIGTERM)
        return header(media)

    source, header = small_corpus.jsonl(root / "mixed.jsonl"), images.header
    before = signal.signal(signal.SIGTERM, handle)
    try:
        with monkeypatch.context() as patched, pytest.raises(Terminated):
            patched.setattr(images, "header", header_and_signal)
            LengthIndex.open(source, tokenizer(), tmp_path, threads=1)
    finally:
        signal.signal(signal.SIGTERM, before)
    inspected.clear()
    index = LengthIndex.open(source, tokenizer(), tmp_path)
    assert len(inspected) < 12 and index.digest() == LengthIndex.open(source, tokenizer(), tmp_path / "whole").digest()


def test_stop_is_asked_between_windows_and_the_next_start_goes_on(root, tmp_path, inspected, monkeypatch):
    monkeypatch.setattr(lengths, "_WINDOW", 5)
    source, asked = small_corpus.jsonl(root / "mixed.jsonl"), []

    def stop():
        asked.append(len(inspected))
        return len(asked) == 3

    with pytest.raises(Interrupted, match="stopped after 10 of 12 samples; the next start goes on from there"):
        LengthIndex.open(source, tokenizer(), tmp_path, stop=stop)
    assert asked == [0, 5, 10]
    inspected.clear()
    index = LengthIndex.open(source, tokenizer(), tmp_path, stop=lambda: False)
    assert sorted(inspected) == keys_of((11, 12)) and len(index.usable) == 12
    assert not issubclass(Interrupted, DataError)
    with pytest.raises(Interrupted):  # while it looks for changed files, too
        LengthIndex.open(source, tokenizer(), tmp_path, stop=lambda: True)


def test_an_interrupted_build_looks_at_failures_again(tmp_path, inspected, monkeypatch):
    monkeypatch.setattr(lengths, "_WINDOW", 4)
    source = small_corpus.jsonl(broken_corpus(tmp_path))
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        LengthIndex.open(source, tokenizer(), tmp_path / "index", stop=lambda: next(asked))
    index = LengthIndex.open(source, tokenizer(), tmp_path / "index")
    assert index.usable.tolist() == [0, 13] and sum(index.unusable.values()) == 12
    assert len(index.log.read_text().splitlines()) == 12


def test_a_build_that_is_killed_keeps_what_was_saved_on_the_way(root, tmp_path):
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(pathlib.Path(small_corpus.__file__).parent)!r})
import small_corpus
from data_pipelines.index import lengths
lengths._WINDOW, lengths.SAVE_SECONDS = 4, -1.0
asked = []
def stop():
    asked.append(1)
    if len(asked) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
source = small_corpus.jsonl(small_corpus.pathlib.Path({str(root / "mixed.jsonl")!r}))
lengths.LengthIndex.open(source, small_corpus.tokenizer(), {str(tmp_path)!r}, stop=stop)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    stored = np.load(tmp_path / "mixed.lengths.npz", allow_pickle=False)
    assert len(stored["text_counts"]) == 8
    assert len(LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path).usable) == 12


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
            found = index.lengths(phase(**WIDE), 0)
            for number in range(len(rows)):
                document = build_document(source[number], phase(**WIDE), tokenizer(), sample_seed(0, "mixed", number))
                assert found[number].tolist() == [len(document.tokens), len(document.visual), len(document.grids), 1]
                if number in (0, 4):  # 80 x 40 and 96 x 64 as stored
                    rows_of, columns = document.grids[0].tolist()
                    assert (rows_of > columns) == (pictures == "faithful")


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
