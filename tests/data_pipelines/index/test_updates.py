"""What an index keeps from one opening to the next: changes of files, damage, and builds that were stopped."""

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
from small_corpus import WIDE, phase, tokenizer

from data_pipelines.documents import build_document
from data_pipelines.index import build, shards, work
from data_pipelines.index.columns import COLUMNS
from data_pipelines.index.lengths import LengthIndex, sample_seed
from data_pipelines.media import images
from data_pipelines.schema import DataError, Interrupted, SourceSettings
from data_pipelines.sources import open_source


def keys_of(lines):
    return sorted(f"mixed.jsonl:{line}" for line in lines)


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
    assert names == ["mixed.unusable.jsonl", "shards"]

    class Other:  # the same tokenizer by another name
        fingerprint = "other"
        special, encode = tokenizer().special, tokenizer().encode

    assert measured(Other()) == 12 and measured() == 0
    assert measured(pictures="reference") == 12 and measured(pictures="reference") == 0 and measured() == 0
    with (tmp_path / "mixed.jsonl").open("a") as file:
        file.write(json.dumps({"conversations": small_corpus.turns("one more")}) + "\n")
    assert measured() == 13
    monkeypatch.setattr(shards, "VERSION", shards.VERSION + 1)
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
@pytest.mark.parametrize("file", ["index.json", "text-*", "size_ends-*", "sizes-*", "clips-*", "before-*", "failures-*"])
def test_a_damaged_index_is_built_again_and_said_so(root, tmp_path, file, kind, capsys):
    """Whatever is damaged is noticed, or is no matter: the lengths stay right."""
    source, random, said = small_corpus.jsonl(root / "mixed.jsonl"), np.random.default_rng(0), 0
    index = LengthIndex.open(source, tokenizer(), tmp_path)
    expected = index.lengths(phase(), 0)[:]
    for _ in range(6):
        (path,) = index.path.glob(file)
        path.write_bytes(damage(path.read_bytes(), kind, random))
        assert (LengthIndex.open(source, tokenizer(), tmp_path).lengths(phase(), 0)[:] == expected).all()
        said += f"the index {index.path} is damaged" in capsys.readouterr().err
    assert said >= (0 if path.stat().st_size < 300 and kind != "cut" else 3)  # numpy pads headers with what is no matter


def test_a_missing_column_is_damage(root, tmp_path, capsys):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    index = LengthIndex.open(source, tokenizer(), tmp_path)
    expected = index.lengths(phase(), 0)[:]
    for column in COLUMNS:
        next(index.path.glob(f"{column}-*.npy")).unlink()
        assert (LengthIndex.open(source, tokenizer(), tmp_path).lengths(phase(), 0)[:] == expected).all()
        assert "is damaged" in capsys.readouterr().err


def test_damaged_counts_of_pieces_are_counted_again(root, tmp_path, capsys):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    index = LengthIndex.open(source, tokenizer(), tmp_path)
    expected = index.lengths(phase(), 0)[:]
    index.save_pieces()
    (path,) = (tmp_path / "pieces").iterdir()
    content = dict(np.load(path))
    content["marks"] = content["marks"] + 1
    np.savez(path, **content)
    assert (LengthIndex.open(source, tokenizer(), tmp_path).lengths(phase(), 0)[:] == expected).all()
    assert "is damaged" in capsys.readouterr().err


def test_pieces_of_text_are_counted_once(root, tmp_path, monkeypatch):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    index = LengthIndex.open(source, tokenizer(), tmp_path)
    expected = index.lengths(phase(), 0)[:]
    index.save_pieces()
    index = LengthIndex.open(source, tokenizer(), tmp_path)
    monkeypatch.setattr(tokenizer(), "encode", None)
    assert (index.lengths(phase(), 0)[:] == expected).all()


def test_an_index_that_cannot_be_read_or_written_is_refused_by_name(root, tmp_path):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    path = LengthIndex.open(source, tokenizer(), tmp_path).path
    (path / "index.json").unlink()
    (path / "index.json").mkdir()  # stands for a file without permission, which a test run by root does not notice
    with pytest.raises(DataError, match=rf"cannot read the index {path}.*delete it to build it again"):
        LengthIndex.open(source, tokenizer(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write the index .*file/index/shards.*another index_folder"):
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
    stale = tmp_path / "index/shards/.again.0"  # of a process that was killed
    stale.mkdir()
    stale.with_name(".again.0.lock").touch()
    for number in range(10):
        small_corpus.write_image(tmp_path / f"media/{number}.png", 256, 320, number)
    after = index()
    assert sorted(inspected) == keys_of(range(1, 11))
    assert not list((tmp_path / "index/shards").glob(".again*"))
    assert (after.lengths(phase(), 0)[:][:10, 1] > before.lengths(phase(), 0)[:][:10, 1]).all()
    assert (after.lengths(phase(), 0)[:][10:] == before.lengths(phase(), 0)[:][10:]).all()
    assert after.digest() != before.digest()


def test_another_time_of_change_alone_changes_no_digest(tmp_path, inspected, capfd):
    path = corpus_of_forty(tmp_path, 40)
    before = LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index").digest()
    os.utime(tmp_path / "media/3.png", ns=(1, 1))
    for measured in (keys_of([4]), []):
        inspected.clear()
        assert LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index").digest() == before
        assert inspected == measured
        # What the pictures show may have changed: it is said once.
        assert ("1 samples have media files of another size or time" in capfd.readouterr().err) == bool(measured)


def test_files_that_are_away_for_a_while_are_not_measured_again(tmp_path, inspected):
    """A folder that was not mounted: its samples are unusable as long as it is away, and cost no measuring when it is back."""
    path = corpus_of_forty(tmp_path, 40)
    before = LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index").digest()
    for number in range(1, 40):
        (tmp_path / f"media/{number}.png").rename(tmp_path / f"{number}.png")
    for _ in range(2):
        index = LengthIndex.open(small_corpus.jsonl(path), tokenizer(), tmp_path / "index")
        assert index.usable.tolist() == [0] and index.unusable == {"missing_file": 39} and index.digest() != before
        assert (index.lengths(phase(), 0)[:][1:] == 0).all()
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
        return source, LengthIndex.open(source, tokenizer(), tmp_path / "index").lengths(settings, 0)[:]

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

    monkeypatch.setattr(work, "CHUNK", 1)
    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(images, "header", fails)
        LengthIndex.open(source, tokenizer(), tmp_path, threads=1)
    assert len(list(tmp_path.glob("shards/*/parts/*.npz"))) == 3
    inspected.clear()
    index = LengthIndex.open(source, tokenizer(), tmp_path)
    assert len(index.usable) == 12 and sorted(inspected) == keys_of(range(4, 13))
    assert index.digest() == LengthIndex.open(source, tokenizer(), tmp_path / "whole").digest()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_handler_that_raises_ends_a_build_and_keeps_the_part(root, tmp_path, inspected, monkeypatch, threads):
    class Terminated(Exception):
        pass

    def handle(*_):
        raise Terminated

    consumed = threading.Event()

    def watched(items, total, label):
        for item in items:
            yield item
            consumed.set()  # the next one is asked for: this one was taken over

    def header_and_signal(media):
        if "3.jpg" in media.name:
            assert (threading.current_thread() is threading.main_thread()) == (threads == 1)
            assert consumed.wait(60)
            os.kill(os.getpid(), signal.SIGTERM)
        return header(media)

    source, header = small_corpus.jsonl(root / "mixed.jsonl"), images.header
    monkeypatch.setattr(work, "CHUNK", 1)
    before = signal.signal(signal.SIGTERM, handle)
    try:
        with monkeypatch.context() as patched, pytest.raises(Terminated):
            patched.setattr(images, "header", header_and_signal)
            patched.setattr(build, "progress", watched)
            LengthIndex.open(source, tokenizer(), tmp_path, threads=threads)
    finally:
        signal.signal(signal.SIGTERM, before)
    inspected.clear()
    index = LengthIndex.open(source, tokenizer(), tmp_path)
    assert len(inspected) < 12 and index.digest() == LengthIndex.open(source, tokenizer(), tmp_path / "whole").digest()


def test_stop_is_asked_between_windows_and_the_next_start_goes_on(root, tmp_path, inspected, monkeypatch):
    monkeypatch.setattr(work, "CHUNK", 5)
    source, asked = small_corpus.jsonl(root / "mixed.jsonl"), []

    def stop():
        asked.append(len(inspected))
        return len(asked) == 3

    with pytest.raises(Interrupted, match="what was measured is kept, and the next start continues from there"):
        LengthIndex.open(source, tokenizer(), tmp_path, stop=stop)
    assert asked == [0, 5, 10]
    inspected.clear()
    index = LengthIndex.open(source, tokenizer(), tmp_path, stop=lambda: False)
    assert sorted(inspected) == keys_of((11, 12)) and len(index.usable) == 12
    assert not issubclass(Interrupted, DataError)
    with pytest.raises(Interrupted):  # while it looks for changed files, too
        LengthIndex.open(source, tokenizer(), tmp_path, stop=lambda: True)


def test_an_interrupted_build_looks_at_failures_again(tmp_path, inspected, monkeypatch):
    monkeypatch.setattr(work, "CHUNK", 4)
    source = small_corpus.jsonl(small_corpus.write_broken_corpus(tmp_path))
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
from data_pipelines.index import lengths, work
work.CHUNK = 4
asked = []
def stop():
    asked.append(1)
    if len(asked) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
source = small_corpus.jsonl(small_corpus.pathlib.Path({str(root / "mixed.jsonl")!r}))
lengths.LengthIndex.open(source, small_corpus.tokenizer(), {str(tmp_path)!r}, stop=stop)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("shards/*/parts/*.npz"))) == 2
    assert len(LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path).usable) == 12
