"""Local files by offset, and patterns of files."""

import pytest

from data_pipelines.storage import files
from data_pipelines.storage.files import Part, Whole, blocks, open_file, read_many
from data_pipelines.storage.interface import StorageError, is_remote
from data_pipelines.storage.patterns import expand


def test_parts_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)))
    file = open_file(str(tmp_path / "a"))
    assert file.size == 256 and file.read(250, 6) == bytes(range(250, 256)) and file.read(3, 0) == b""
    assert read_many([Part(file, number, 2) for number in range(0, 100, 2)]) == [bytes([n, n + 1]) for n in range(0, 100, 2)]
    assert b"".join(blocks(file, 100)) == b"".join(blocks(file, 256)) == Whole(file.address).read() == bytes(range(256))
    with pytest.raises(StorageError, match=r"a ends at byte 256, 4 bytes early"):
        file.read(250, 10)


def test_an_empty_file(tmp_path):
    (tmp_path / "a").touch()
    assert list(blocks(open_file(str(tmp_path / "a")))) == []
    with Whole(str(tmp_path / "a")).open() as file:
        assert file.read() == b""


@pytest.mark.parametrize(("name", "reason"), [("none", "missing_file"), ("folder", "unreadable_file"), ("file/x", "missing_file")])
def test_files_that_cannot_be_opened(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"cannot read {tmp_path / name} ") as caught:
        open_file(str(tmp_path / name))
    assert caught.value.reason == reason


def test_addresses_of_stores():
    assert [is_remote(text) for text in ("s3://b/k", "gs://b/k", "/a/b", "a:b", "http://x/y", "")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert files.Part.__doc__


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("{b,a}-{9..10}.tar", ["b-9.tar", "b-10.tar", "a-9.tar", "a-10.tar"]),
        (["b.tar", "a.tar"], ["b.tar", "a.tar"]),
        ("{x}.tar", ["{x}.tar"]),
        ("{3..1}.tar", ["{3..1}.tar"]),
    ],
)
def test_braces_and_lists(patterns, expected):
    assert expand(patterns) == expected


def test_globs(tmp_path, monkeypatch):
    for name in ("d/b.tar", "d/a.tar", "d/e/c.tar", "d/odd[1].tar", "d/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [path.removeprefix(f"{tmp_path}/") for path in expand("~/d/[ab].tar")]
    assert names == ["d/a.tar", "d/b.tar"]
    assert len(expand(str(tmp_path / "d/**/*.tar"))) == 4
    assert expand([str(tmp_path / "d/{x.json,e/*}")]) == [str(tmp_path / "d/x.json"), str(tmp_path / "d/e/c.tar")]
    assert expand(str(tmp_path / "d/odd[1].tar")) == [str(tmp_path / "d/odd[1].tar")]
    with pytest.raises(StorageError, match=r"n\*.tar matches no file: check the pattern and the folder"):
        expand(str(tmp_path / "n*.tar"))
    with pytest.raises(StorageError, match=r"a.tar is named 2 times"):
        expand([str(tmp_path / "d/a.tar"), str(tmp_path / "d/*.tar")])
    with pytest.raises(StorageError, match="write the folder out"):
        expand("~nobody-of-this-name/a.tar")
