"""Folders of media with texts beside them, or with metadata.jsonl."""

import json
import os

import pytest
import small_corpus

from data_pipelines.index.measures import inspect
from data_pipelines.media.images import image_size, read_bytes
from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.sources import open_source


def opened(path, tables=None, **more):
    return open_source(SourceSettings("rows", "folder", str(path), **more), tables)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    for number, name in enumerate(("0.jpg", "a/1.png", "a/b.c.png")):
        small_corpus.write_image(folder / name, 32 + number, 40)
    small_corpus.write_video(folder / "a/2.mp4")
    (folder / "0.txt").write_text("zero\n")
    (folder / "a/1.json").write_text(json.dumps({"conversations": small_corpus.turns("<image>What?", "One."), "image": "1.png"}))
    (folder / "a/2.txt").write_text("moves")
    (folder / "a/b.c.txt").write_text("dots")
    (folder / ".hidden.txt").write_text("x")
    return folder


def test_media_and_texts_of_one_name(folder, tmp_path):
    source = opened(folder, tmp_path / "tables")
    assert [source.key(index) for index in range(4)] == ["pictures/0", "pictures/a/1", "pictures/a/2", "pictures/a/b.c"]
    assert [source[index].turns[-1].text for index in range(4)] == ["zero", "One.", "moves", "dots"]
    assert [image_size(source[index].images[0]) for index in (0, 1, 3)] == [(32, 40), (33, 40), (34, 40)]
    assert inspect(source[2], small_corpus.tokenizer()).clips[0].frames == 20
    assert source[0].images[0].path == str((folder / "0.jpg").resolve())  # a file of its own, looked at when it changes


def test_a_copy_is_the_same_data_and_texts_are_part_of_it(folder, tmp_path):
    first = small_corpus.identities(opened(folder, tmp_path / "tables"))
    assert small_corpus.identities(opened(folder, tmp_path / "tables")) == first
    for path in folder.rglob("*"):
        os.utime(path, ns=(1, 1))
    (tmp_path / "mount").mkdir()
    folder.rename(tmp_path / "mount/pictures")
    assert small_corpus.identities(opened(tmp_path / "mount/pictures", tmp_path / "tables")) == first
    (tmp_path / "mount/pictures/0.txt").write_text("Zero\n")
    assert small_corpus.identities(opened(tmp_path / "mount/pictures", tmp_path / "tables")) != first


def test_metadata_as_in_image_folders(folder):
    rows = [
        {"file_name": "0.jpg", "text": "zero"},
        {"file_name": "../0.jpg", "text": "out"},
        {"file_name": 3, "text": "x"},
        {"text": "none"},
    ]
    small_corpus.write_jsonl(folder / "metadata.jsonl", rows)
    small_corpus.write_jsonl(
        folder / "a/metadata.jsonl", [{"file_names": ["1.png", "b.c.png"], "text": "two"}, {"file_name": "2.mp4", "text": "m"}]
    )
    source = opened(folder)
    keys = [source.key(index) for index in range(len(source))]
    assert keys == [f"a/metadata.jsonl:{n}" for n in (1, 2)] + [f"pictures/metadata.jsonl:{n}" for n in (1, 2, 3, 4)]
    assert [image.name for image in source[0].images] == ["a/1.png", "a/b.c.png"] and len(source[1].clips) == 1
    assert image_size(source[2].images[0]) == (32, 40) and source[5].files == ()
    for index, reason in ((3, "path_escapes_root"), (4, "bad_record")):
        with pytest.raises(SampleError) as caught:
            source[index]
        assert caught.value.reason == reason


def test_links_that_lead_out_are_not_followed(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "0.txt").unlink()
    (folder / "0.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "a/1.json").unlink()
    (folder / "a/1.txt").symlink_to("2.txt")
    source = opened(folder)
    with pytest.raises(SampleError, match=r"'0.txt' is a link that leads to .*secret.txt, outside of media_root"):
        source[0]
    assert source[1].turns[-1].text == "moves"


def test_a_picture_without_a_text_is_named(folder):
    (folder / "0.txt").unlink()
    with pytest.raises(SampleError, match="pictures/0: the row's keys are 'image'"):
        opened(folder)[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none is not a folder: check the name"),
        ("empty", "holds no samples"),
        ("csv", r"metadata.csv is not read: write its rows to"),
    ],
)
def test_folders_that_are_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/metadata.csv").write_text("file_name,text\n")
    with pytest.raises(DataError, match=f"source 'rows': .*{message}"):
        opened(tmp_path / name)


def test_read_bytes_of_a_named_picture(folder):
    assert read_bytes(opened(folder)[1].images[0]) == (folder / "a/1.png").read_bytes()
