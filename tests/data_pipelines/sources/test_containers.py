"""Rows from every container: the same samples, media from the container itself or from the root beside it."""

import concurrent.futures
import json
import tarfile

import pyarrow
import pytest
import small_corpus
from pyarrow import parquet

from data_pipelines.index.lengths import LengthIndex
from data_pipelines.index.measures import inspect
from data_pipelines.media.images import read_bytes
from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.sources import open_source


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root)
    return root


def pack_tar(path, root):
    """Each row beside its files, named by the row's number."""
    with tarfile.open(path, "w") as archive:
        for number, line in enumerate((root / "mixed.jsonl").read_text().splitlines()):
            row = json.loads(line)
            names = [row[key] for key in ("image", "images", "video") if key in row]
            for place, name in enumerate(names[0] if names and isinstance(names[0], list) else names):
                archive.add(root / "media" / name, f"{number:03d}.{place}.{name.rpartition('.')[2]}")
            for key in ("image", "images", "video"):
                row.pop(key, None)
            (path.parent / "row.json").write_text(json.dumps(row))
            archive.add(path.parent / "row.json", f"{number:03d}.json")


def pack_parquet(path, root):
    rows = []
    for line in (root / "mixed.jsonl").read_text().splitlines():
        row = json.loads(line)
        names = row.pop("images", row.pop("image", []))
        names = names if isinstance(names, list) else [names]
        row["images"] = [{"path": name, "bytes": (root / "media" / name).read_bytes()} for name in names]
        rows.append({key: row.get(key) for key in ("conversations", "images", "video", "family")})
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=5)


def content(sample):
    return sample.turns, sample.family, len(sample.clips), [read_bytes(file) for file in sample.files]


@pytest.mark.parametrize(("format", "pack"), [("tar", pack_tar), ("parquet", pack_parquet)])
def test_every_container_gives_the_same_samples(root, tmp_path, format, pack):
    original = small_corpus.jsonl(root / "mixed.jsonl")
    pack(tmp_path / f"rows.{format}", root)
    media_root = str(root / "media") if format == "parquet" else ""  # clips lie beside it
    source = open_source(SourceSettings("mixed", format, str(tmp_path / f"rows.{format}"), media_root), tmp_path / "tables")
    assert len(source) == len(original) == 12
    for index in range(12):
        assert content(source[index]) == content(original[index])
        mine, theirs = (inspect(each[index], small_corpus.tokenizer()) for each in (source, original))
        assert (mine.text, mine.sizes, mine.clips) == (theirs.text, theirs.sizes, theirs.clips)
    lengths = LengthIndex.open(source, small_corpus.tokenizer(), tmp_path / "index").lengths(small_corpus.phase(**small_corpus.WIDE), 3)
    expected = LengthIndex.open(original, small_corpus.tokenizer(), tmp_path / "other").lengths(small_corpus.phase(**small_corpus.WIDE), 3)
    assert lengths[:].tolist() == expected[:].tolist()


def write_captions(path, members):
    with tarfile.open(path, "w") as archive:
        for number, (name, file) in enumerate(members):
            archive.add(file, f"{number}.{name}")
            (path.parent / "text").write_text(f"caption {number}")
            archive.add(path.parent / "text", f"{number}.txt")
    return path


def test_captions_of_an_archive(tmp_path):
    small_corpus.write_image(tmp_path / "a.png", 40, 50)
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "c.png").touch()
    path = write_captions(tmp_path / "a.tar", [("png", tmp_path / "a.png"), ("png", tmp_path / "b.png"), ("png", tmp_path / "c.png")])
    source = open_source(SourceSettings("captions", "tar", str(path)))
    assert [turn.text for turn in source[0].turns] == ["<image>", "caption 0"]
    assert inspect(source[0], small_corpus.tokenizer()).sizes == [(40, 50)]
    for index, reason in ((1, "not_an_image"), (2, "empty_file")):
        with pytest.raises(SampleError) as caught:
            inspect(source[index], small_corpus.tokenizer())
        assert caught.value.reason == reason and f"{index}.png" in str(caught.value)


def test_a_file_that_neither_the_container_nor_a_root_holds(tmp_path):
    row = {"text": "x", "images": ["lost.png"]}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    source = open_source(SourceSettings("rows", "parquet", str(tmp_path / "a.parquet")))
    with pytest.raises(SampleError, match=r"a.parquet\[0\]: names the file 'lost.png', but source 'rows' has no media_root; set it"):
        source[0]


def test_the_format_that_a_file_has_is_told(tmp_path, root):
    pack_tar(tmp_path / "rows.x", root)
    with pytest.raises(DataError, match='is a tar archive, not JSON lines nor a JSON list: set the source\'s format to "tar"'):
        open_source(SourceSettings("rows", "jsonl", str(tmp_path / "rows.x")))


def test_a_source_tells_its_shards(tmp_path, root):
    pack_tar(tmp_path / "rows.tar", root)
    small_corpus.write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}] * 3)
    for format, path, samples in (("tar", "rows.tar", 12), ("jsonl", "a.jsonl", 3)):
        (shard,) = open_source(SourceSettings("rows", format, str(tmp_path / path))).shards()
        assert (shard.name, shard.samples, len(shard.fingerprint)) == (path, samples, 64)


def test_columns_that_prompts_use_are_read_though_they_are_ignored(tmp_path):
    rows = [{"question": "Why?", "answer": "So.", "hint_image_count": 2, "url": "x"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    prompts = ("{question} ({hint_image_count})",)
    source = open_source(
        SourceSettings("rows", "parquet", str(tmp_path / "a.parquet"), ignore=("hint_image_count", "url"), prompts=prompts)
    )
    assert source[0].turns[0].text == "Why? (2)" and set(source.container.record(0).fields) == {"question", "answer", "hint_image_count"}


def test_archives_of_img2dataset(tmp_path):
    """Its JSON holds the caption too, and what is known of the picture, which is counted as not read."""
    small_corpus.write_image(tmp_path / "a.jpg", 40, 50)
    row = {"caption": "a caption", "url": "https://example.org/a.jpg", "key": "000", "status": "success", "error_message": None}
    row |= {"width": 50, "height": 40, "original_width": 500, "original_height": 400, "exif": "{}", "sha256": "0" * 64}
    (tmp_path / "a.json").write_text(json.dumps(row))
    (tmp_path / "a.txt").write_text("a caption")
    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        for ending in ("jpg", "json", "txt"):
            archive.add(tmp_path / f"a.{ending}", f"000000000.{ending}")
    source = open_source(SourceSettings("pairs", "tar", str(tmp_path / "{00000..00000}.tar")))
    assert source[0].turns[1].text == "a caption" and inspect(source[0], small_corpus.tokenizer()).sizes == [(40, 50)]
    assert source.ignored.keys() == row.keys() - {"caption", "error_message"}


@pytest.mark.parametrize(("format", "pack"), [("tar", pack_tar), ("parquet", pack_parquet)])
def test_threads_share_a_source(root, tmp_path, format, pack):
    pack(tmp_path / f"rows.{format}", root)
    media_root = str(root / "media") if format == "parquet" else ""
    source = open_source(SourceSettings("mixed", format, str(tmp_path / f"rows.{format}"), media_root))
    expected = [content(source[index]) for index in range(12)]
    numbers = [number * 7 % 12 for number in range(240)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: content(source[number]), numbers)) == [expected[number] for number in numbers]
