"""Files made to harm: a source refuses them in a sentence, in bounded time and memory, and runs nothing that they name."""

import gzip
import io
import json
import pathlib
import sys
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.sources import open_source
from data_pipelines.sources.containers import lines, parquet
from data_pipelines.sources.containers.arrayrecord import _decoder_beside
from data_pipelines.sources.json_text import MOST_LEVELS, read_json


def open_at(path: pathlib.Path, format: str):
    return open_source(SourceSettings("s", format, str(path), media_root=str(path.parent)), path.parent / "tables")


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157], block[257:263] = name, size, kind, b"ustar\0"
    return bytes(block)


END = b"\0" * 1024


@pytest.mark.parametrize("size", [b"-1000", b"-777", b"+1", b"1_0", b"0o7", b"\xff" * 12, b"\x80" + b"\xff" * 11])
def test_a_size_that_is_none(tmp_path, size):
    """int() takes signs: the negative one led back to the same header for ever."""
    (tmp_path / "a.tar").write_bytes(header(b"a.txt", size) + END)
    with pytest.raises(DataError, match="has no header where one belongs"):
        open_at(tmp_path / "a.tar", "tar")


@pytest.mark.parametrize("fields", [b"5020 size=" + b"9" * 5009 + b"\n", b"35 size=" + b"9" * 26 + b"\n", b"9" * 5000 + b" path=b\n"])
def test_extended_headers_with_long_numbers(tmp_path, fields):
    extended = header(b"p", b"%o" % len(fields), b"x") + fields + bytes(-len(fields) % 512)
    (tmp_path / "a.tar").write_bytes(extended + header(b"a.txt", b"1") + b"x" + bytes(511) + END)
    assert open_at(tmp_path / "a.tar", "tar")[0].turns[0].text == "x"


def test_members_never_leave_their_archive(tmp_path):
    """Nothing is extracted: names that lead out, links and devices are words, and no file is read or written through them."""
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind, link in (
            ("../out.txt", tarfile.REGTYPE, ""),
            ("/b.txt", tarfile.REGTYPE, ""),
            ("c.txt", tarfile.SYMTYPE, "secret.txt"),
            ("d.txt", tarfile.LNKTYPE, "../secret.txt"),
            ("e.txt", tarfile.CHRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 2 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"ab"))
    source = open_at(tmp_path / "a.tar", "tar")
    said = []
    for row in range(len(source)):
        try:
            said.append(source[row].turns[0].text)
        except SampleError as error:
            said.append(error.reason)
    assert said == ["ab", "ab", "broken_record", "broken_record"]
    assert not (tmp_path.parent / "out.txt").exists()


def nested(levels: int, opening: str = '{"a":', closing: str = "}") -> str:
    return opening * levels + "1" + closing * levels


ROWS = ['{"text": %s}', '{"text": "a", "other": %s}', '{"image": %s, "text": "b"}', '{"messages": [{"role": "user", "content": %s}]}']


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("value", [nested(3000), nested(3000, "[", "]"), nested(200_000, "[", "]"), nested(MOST_LEVELS, "[", "]")])
def test_nested_rows_are_skipped(tmp_path, row, value):
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n' + row % value + '\n{"text": "last"}\n')
    source = open_at(tmp_path / "a.jsonl", "jsonl")
    with pytest.raises(SampleError, match=f"more than {MOST_LEVELS} levels") as error:
        source[1]
    assert error.value.reason == "broken_json" and source[2].turns[0].text == "last"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        content = (row % value).encode()
        info = tarfile.TarInfo("a.json")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(SampleError, match=f"more than {MOST_LEVELS} levels"):
        open_at(tmp_path / "a.tar", "tar")[0]


@pytest.mark.parametrize("levels", [3000, 200_000])
@pytest.mark.parametrize("key", ["tools", "tool_calls"])
def test_nested_texts_of_tools_are_skipped(tmp_path, key, levels):
    """JSON within a text of the row is bounded too."""
    answer, value = {"role": "assistant", "content": "b"}, nested(levels, "[", "]")
    row = {"messages": [{"role": "user", "content": "a"}, answer]}
    if key == "tools":
        row["tools"] = value
    else:
        answer[key] = [{"function": {"name": "x", "arguments": value}}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "first"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(SampleError, match=f"more than {MOST_LEVELS} levels"):
        open_at(tmp_path / "a.jsonl", "jsonl")[1]


def test_rows_of_ordinary_depth_are_read():
    deep, wide = nested(MOST_LEVELS, "[", "]"), json.dumps([[] for _ in range(1000)])
    assert read_json(deep) is not None and len(read_json(wide.encode())) == 1000
    with pytest.raises(ValueError, match="levels"):
        read_json(f"[{deep}]")


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: pyarrow.compress(data, "zstd", asbytes=True)])
def test_what_unpacks_to_far_more_than_its_size_is_cut(tmp_path, compress, monkeypatch):
    monkeypatch.setattr(lines, "_FREE_UNPACKED_BYTES", 1 << 20)
    row = b'{"text": "a"}\n'
    (tmp_path / "a.jsonl").write_bytes(compress(row + b" " * (64 << 20)))
    source = open_at(tmp_path / "a.jsonl", "jsonl")
    assert source[0].turns[0].text == "a"
    with pytest.raises(SampleError, match="over 200 times its size"):
        source[len(source) - 1]
    stored = sum(path.stat().st_size for path in (tmp_path / "tables").rglob("*") if path.is_file())
    assert stored < 20 << 20
    (tmp_path / "b.jsonl").write_bytes(compress(row * 100_000))
    monkeypatch.undo()
    assert len(open_at(tmp_path / "b.jsonl", "jsonl")) == 100_000


def test_a_parquet_file_whose_dictionary_stands_for_more_is_refused(tmp_path, monkeypatch):
    """A few hundred bytes stand for 400 MB: one value of 1 MiB and 400 rows."""
    monkeypatch.setattr(parquet, "MOST_GROUP_BYTES", 64 << 20)
    monkeypatch.setattr(parquet, "PART_BYTES", 8 << 20)
    for name, rows in (("small", 40), ("large", 400)):
        values = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array(["x" * (1 << 20)]))
        table = pyarrow.table({"text": values, "id": list(map(str, range(rows)))})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet", compression="zstd", store_schema=False)
        assert (tmp_path / f"{name}.parquet").stat().st_size < 10_000
    source = open_at(tmp_path / "small.parquet", "parquet")
    assert [len(source[row].turns[0].text) for row in (0, 39)] == [1 << 20] * 2
    source = open_at(tmp_path / "large.parquet", "parquet")
    before = pyarrow.default_memory_pool().bytes_allocated()
    with pytest.raises(SampleError, match="unpacks to more than 67,108,864 bytes"):
        source[0]
    assert pyarrow.default_memory_pool().bytes_allocated() - before < 16 << 20


def test_a_row_without_end(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "' + b"a" * (lines.MAX_ROW_BYTES + (17 << 20)))
    rows = lines.raw_rows(str(tmp_path / "a.jsonl"), "s")
    with pytest.raises(DataError, match="has a row of more than"):
        list(rows)


FOREIGN = {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict"}
CLASSES = [
    {"pythonClassName": "foreign_module.Feature", "text": {}},
    {"type": "foreign_module.Feature", "content": {}},
    FOREIGN | {"featuresDict": {"features": {"a": {"python_class_name": "foreign_module.Feature", "text": {}}}}},
    {"type": FOREIGN["pythonClassName"], "content": {"a": {"type": "foreign_module.Feature", "content": {}}}},
    {"pythonClassName": "tensorflow_datasets..foreign_module.Feature", "text": {}},
]


@pytest.mark.parametrize("features", CLASSES)
def test_a_dataset_names_no_module_to_import(tmp_path, features, monkeypatch):
    """TFDS imports the modules of the classes in features.json, from the folder where a command is started too."""
    (tmp_path / "foreign_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "set" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(features))
    split = {"name": "train", "shardLengths": ["1"], "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "numBytes": "1"}
    information = {"name": "set", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(information))
    for place in (folder, folder.parent):
        with pytest.raises(DataError, match="only those of tensorflow_datasets are read"):
            open_source(SourceSettings("s", "tfds", str(place)), tmp_path / "tables")
    with pytest.raises(DataError, match="only those of tensorflow_datasets are read"):
        _decoder_beside(str(folder / "a.array_record"))
    assert not (tmp_path / "ran").exists() and "foreign_module" not in sys.modules


def test_names_are_shown_as_text(tmp_path):
    evil = "\x1b[2J\n\u202e"
    assert str(SampleError("bad_record", f"a{evil}b")) == "a\\x1b[2J\\x0a\\u202eb"
    assert str(DataError(f"a{evil}b")) == "a\\x1b[2J\n\\u202eb"
