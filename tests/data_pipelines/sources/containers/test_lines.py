"""JSON lines and JSON lists in every encoding and compression, whole, damaged and copied."""

import gzip
import json

import numpy as np
import pyarrow
import pytest

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers import lines as module
from data_pipelines.sources.containers.lines import Lines
from data_pipelines.sources.containers.shards import Shards
from data_pipelines.sources.containers.tables import Tables

ROWS = [{"text": "first"}, {"text": "second \u4e16\u754c \U0001f600"}, {"text": "x" * 300}, {"n": 4}]
TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def zstd(data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def opened(path, folder=None):
    return Shards(Lines(), str(path), Tables(folder), "rows")


def values(container):
    return [container.record(index).fields for index in range(len(container))]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", TEXT.encode()),
        ("a.jsonl", ("\ufeff" + TEXT).encode()),
        ("a.jsonl", TEXT.rstrip("\n").replace("\n", "\r\n").encode()),
        ("a.jsonl", TEXT.encode("utf-16")),
        ("a.jsonl", b"\xfe\xff" + TEXT.encode("utf-16-be")),
        ("a.jsonl.gz", gzip.compress(TEXT.encode(), mtime=0)),
        (
            "a.jsonl.gz",
            gzip.compress(TEXT[:20].encode(), mtime=0) + gzip.compress(TEXT[20:].encode(), mtime=0),
        ),  # as parallel writers leave it
        ("a.jsonl.zst", zstd(TEXT.encode())),
        ("a.jsonl.zst", zstd(TEXT[:20].encode()) + zstd(TEXT[20:].encode())),
        ("a.jsonl.gz", gzip.compress(TEXT.encode("utf-16"), mtime=0)),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", json.dumps(ROWS, indent=2, ensure_ascii=False).replace("\n", "\r\n").encode()),
        ("a.json.gz", gzip.compress(("\ufeff \n" + json.dumps(ROWS)).encode(), mtime=0)),
    ],
)
def test_every_way_of_writing_gives_the_same_rows(tmp_path, monkeypatch, name, content):
    (tmp_path / name).write_bytes(content)
    for block in (1 << 24, 7):
        monkeypatch.setattr(module, "_BLOCK_BYTES", block)
        monkeypatch.setattr(module, "HEAD_BYTES", block)
        container = opened(tmp_path / name)
        assert values(container) == ROWS
        assert [container.record(index).fields for index in (3, 0, 2)] == [ROWS[3], ROWS[0], ROWS[2]]
        number = "{}[{}]" if ".json" in name and "l" not in name else "{}:{}"
        assert container.key(2) == number.format(name, 2 if "[" in number else 3)


def test_keys_are_line_numbers_past_empty_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n\r\n{"a": 2}\n\n')
    container = opened(tmp_path / "a.jsonl")
    assert values(container) == [{"a": 1}, {"a": 2}]
    assert [container.key(0), container.key(1)] == ["a.jsonl:1", "a.jsonl:4"]


def broken(container):
    """(index, reason) of the records that cannot be read."""
    found = []
    for index in range(len(container)):
        try:
            container.record(index)
        except SampleError as error:
            found.append((index, error.reason))
    return found


def test_a_broken_line_breaks_itself_alone(tmp_path, monkeypatch):
    lines = [b'{"a": 1}', b'{"a": "\0"}', b'{"a": "\xff"}', b"\0\0\0", b'{"a": "' + b"x" * 2000 + b'"}', b"[" * 100_000, b'{"a": 2}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    monkeypatch.setattr(module, "MAX_ROW_BYTES", 1000)
    container = opened(tmp_path / "a.jsonl")
    assert broken(container) == [(1, "broken_json"), (2, "broken_json"), (3, "broken_json"), (4, "long_row"), (5, "long_row")]
    assert container.record(6).fields == {"a": 2}
    with pytest.raises(SampleError, match=r"a.jsonl, line 5: the row has 2,010 bytes, more than 1,000: keep media in files"):
        container.record(4)
    monkeypatch.undo()
    assert broken(opened(tmp_path / "a.jsonl"))[3:] == [(5, "broken_json")]


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_compressed_file_that_is_cut_keeps_what_is_whole_and_names_the_rest(tmp_path, pack):
    noise = np.random.default_rng(0).integers(0, 256, (4000, 60), np.uint8)
    rows = [{"text": bytes(row).hex()} for row in noise]
    content = pack("".join(json.dumps(row) + "\n" for row in rows).encode())
    (tmp_path / "a.jsonl.x").write_bytes(content[: len(content) // 2])
    container = opened(tmp_path / "a.jsonl.x")
    assert 100 < len(container) < 4000
    last = len(container) - 1
    assert {index for index, _ in broken(container)} <= {last - 1, last} and container.record(last // 2).fields == rows[last // 2]
    with pytest.raises(SampleError, match=rf"a.jsonl.x:{last + 1}: .*a.jsonl.x is cut short or damaged .*fetch the file again"):
        container.record(last)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1},\n {"x" 3}]', "line 2"),
        ('[{"a": 1} {"b": 2}]', "Expecting ',' delimiter"),
        ('[{"a": 1},]', "not valid JSON"),
        ('[{"a": 1}] x', "Extra data"),
        ('[{"a": 1}', "not valid JSON"),
        ("[", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"rows": [{"a": 1}]}', 'one JSON object, whose rows may be under "rows"'),
        ("", "holds no samples"),
        ("\n\n", "holds no samples"),
        ("[]", "holds no samples"),
        (" [ ] ", "holds no samples"),
    ],
)
def test_files_that_are_refused_whole(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=f"source 'rows'.*a.json.*{message}"):
        opened(tmp_path / "a.json", tmp_path / "tables")
    assert not list((tmp_path / "tables").glob("*.partial"))


def test_a_copy_of_a_shard_is_the_same_data_and_an_unchanged_one_is_not_read_again(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(TEXT)
    first = opened(tmp_path / "a.jsonl", tmp_path / "tables").shards()
    assert first[0].name == "a.jsonl" and first[0].samples == 4
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount/a.jsonl").write_text(TEXT)
    assert opened(tmp_path / "mount/a.jsonl").shards() == first
    with monkeypatch.context() as patched:
        patched.setattr(Lines, "scan", None)
        again = opened(tmp_path / "a.jsonl", tmp_path / "tables")
        assert again.shards() == first and values(again) == ROWS
    (tmp_path / "a.jsonl").write_text(TEXT.replace("first", "First"))
    assert opened(tmp_path / "a.jsonl", tmp_path / "tables").shards()[0].fingerprint != first[0].fingerprint


def test_deleted_tables_are_made_again(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(TEXT.encode(), mtime=0))
    opened(tmp_path / "a.jsonl.gz", tmp_path / "tables")
    for path in (tmp_path / "tables").glob("*.rows"):
        path.unlink()
    assert values(opened(tmp_path / "a.jsonl.gz", tmp_path / "tables")) == ROWS
