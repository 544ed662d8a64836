"""What a file or folder is, by what it holds."""

import gzip
import io
import tarfile

import pyarrow
import pytest
from pyarrow import parquet

from data_pipelines.sources.containers.recognise import format_of, recognise


def tar():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return content.getvalue()


def table():
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"a": [1]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (b'{"a": 1}\n', "jsonl"),
        (b' [{"a": 1}]', "jsonl"),
        (gzip.compress(b"{}", mtime=0), "jsonl"),
        (tar(), "tar"),
        (table(), "parquet"),
        (b"", "jsonl"),
    ],
)
def test_the_format_of_a_file(tmp_path, content, format):
    (tmp_path / "some file").write_bytes(content)
    assert format_of(str(tmp_path / "some file")) == format_of(str(tmp_path / "some*")) == format


def test_the_format_of_a_folder(tmp_path):
    (tmp_path / "set/1.0.0").mkdir(parents=True)
    assert format_of(str(tmp_path / "set")) == "folder"
    (tmp_path / "set/1.0.0/features.json").touch()
    assert [format_of(str(tmp_path / path)) for path in ("set", "set/1.0.0", "set:1.0.0", "none")] == ["tfds", "tfds", "tfds", "jsonl"]


def test_json_with_one_nul_is_json():
    assert recognise(b'{"a": "\0"}\n{"a": 1}\n').format == "jsonl"
    assert recognise(bytes(range(256)) * 4).what == "a binary file"
