"""Parquet files in the layouts of Hugging Face."""

import threading

import pyarrow
import pytest
from pyarrow import parquet

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers import parquet as module
from data_pipelines.sources.containers.parquet import Parquet
from data_pipelines.sources.containers.shards import Shards
from data_pipelines.sources.containers.tables import Tables

ROWS = [
    {"image": {"bytes": f"picture {number}".encode(), "path": f"{number}.png"}, "text": f"row {number}", "score": number / 2}
    for number in range(7)
]


def write(path, rows, group=2, **options):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group, **options)
    return path


def opened(*paths, ignore=(), folder=None):
    return Shards(Parquet(ignore), [str(path) for path in paths], Tables(folder), "rows")


def test_rows_are_plain_values_in_any_order(tmp_path):
    container = opened(write(tmp_path / "a.parquet", ROWS[:5]), write(tmp_path / "b.parquet", ROWS[5:]))
    assert [container.record(index).fields for index in (6, 0, 3, 5, 4)] == [ROWS[index] for index in (6, 0, 3, 5, 4)]
    assert [container.key(4), container.key(5)] == ["a.parquet[4]", "b.parquet[0]"]
    assert [shard.samples for shard in container.shards()] == [5, 2]


def test_nested_columns(tmp_path):
    row = {
        "images": [{"bytes": b"x", "path": None}],
        "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": None}],
        "n": [[1], []],
    }
    assert opened(write(tmp_path / "a.parquet", [row])).record(0).fields == row


def test_few_row_groups_are_kept_and_each_is_read_once_by_many_threads(tmp_path, monkeypatch):
    container = opened(write(tmp_path / "a.parquet", ROWS))
    reads = []
    read = module._Reader._read
    monkeypatch.setattr(module._Reader, "_read", lambda self, group: (reads.append(group), read(self, group))[1])
    threads = [threading.Thread(target=lambda: [container.record(index) for index in range(7)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reads) == [0, 1, 2, 3]
    monkeypatch.setattr(module, "CACHED_BYTES", 1)
    container = opened(tmp_path / "a.parquet")
    reads.clear()
    for index in (0, 1, 2, 0):
        container.record(index)
    assert reads == [0, 1, 0]


def test_columns_to_ignore_are_not_read(tmp_path):
    path = write(tmp_path / "a.parquet", ROWS)
    assert opened(path, ignore=("image", "score")).record(3).fields == {"text": "row 3"}


def test_shards_with_other_columns_are_refused(tmp_path):
    first = write(tmp_path / "a.parquet", ROWS)
    second = write(tmp_path / "b.parquet", [{"text": "x", "score": 1.0}])
    empty = write(tmp_path / "c.parquet", [{"z": 1}][:0])
    with pytest.raises(
        DataError, match=r"source 'rows': the columns of b.parquet and a.parquet differ: b.parquet lacks image; make them equal"
    ):
        opened(first, second)
    assert len(opened(first, second, ignore=("image",))) == 8
    assert len(opened(first, empty)) == 7


def test_a_column_of_another_type_gives_what_it_holds(tmp_path):
    """The dialect names the row and the type that it wanted."""
    container = opened(write(tmp_path / "a.parquet", [{"text": "x"}]), write(tmp_path / "b.parquet", [{"text": 3}]))
    assert [container.record(index).fields for index in (0, 1)] == [{"text": "x"}, {"text": 3}]


def test_a_damaged_row_group_breaks_its_rows_alone(tmp_path):
    path = write(tmp_path / "a.parquet", ROWS, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    group = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content[group.data_page_offset : group.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    container = opened(path)
    for index in (2, 3):
        with pytest.raises(SampleError, match=rf"a.parquet\[{index}\]: row group 1 of .*a.parquet cannot be read") as caught:
            container.record(index)
        assert caught.value.reason == "broken_record"
    assert container.record(4).fields == ROWS[4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], "is cut short or damaged"),
        (lambda whole: whole[:-30] + b"\xff" * 22 + whole[-8:], "is cut short or damaged"),
        (lambda whole: b'{"a": 1}\n{"a": 2}\n', 'is JSON, not a Parquet file: set the source\'s format to "jsonl"'),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_files_that_are_refused_whole(tmp_path, content, message):
    path = write(tmp_path / "a.parquet", ROWS)
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(DataError, match=f"source 'rows': .*a.parquet {message}|{message}"):
        opened(path)


def test_the_fingerprint_follows_content(tmp_path):
    first = opened(write(tmp_path / "a.parquet", ROWS)).shards()[0].fingerprint
    assert opened(write(tmp_path / "b.parquet", ROWS)).shards()[0].fingerprint == first
    changed = [*ROWS[:3], ROWS[3] | {"text": "ROW 3"}, *ROWS[4:]]
    assert opened(write(tmp_path / "b.parquet", changed)).shards()[0].fingerprint != first
