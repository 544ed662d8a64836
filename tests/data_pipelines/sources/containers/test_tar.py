"""WebDataset archives: grouped, found at random, whole and damaged."""

import io
import json
import tarfile

import pytest

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers.shards import Shards
from data_pipelines.sources.containers.tables import Tables
from data_pipelines.sources.containers.tar import Tar


def write_tar(path, members, format=tarfile.PAX_FORMAT, mtime=0.5):
    """mtime with a fraction: as webdataset writes it, which gives each member an extended header."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info.size, info.mtime = len(data), mtime
            archive.addfile(info, io.BytesIO(data))
    return path


def opened(*paths, folder=None):
    return Shards(Tar(), [str(path) for path in paths], Tables(folder), "rows")


MEMBERS = [
    ("000.jpg", b"picture 0"),
    ("000.txt", b"a caption\n"),
    ("a/001.json", {"text": "b", "image": "a/001.png"}),
    ("a/001.png", b"picture 1"),
    ("./a/b.c/002.mp4", b"clip 2"),
    ("./a/b.c/002.txt", "\u4e16\u754c".encode()),
    ("003.0.jpg", b"first"),
    ("003.10.jpg", b"last"),
    ("003.2.jpg", b"second"),
    ("003.json", {"text": "three"}),
]
FIELDS = [
    {"image": "000.jpg", "text": "a caption"},
    {"text": "b", "image": "a/001.png"},
    {"video": "a/b.c/002.mp4", "text": "\u4e16\u754c"},
    {"text": "three", "images": ["003.0.jpg", "003.2.jpg", "003.10.jpg"]},
]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_one_name_are_a_record(tmp_path, format):
    container = opened(write_tar(tmp_path / "s-1.tar", MEMBERS, format, 0.5 if format == tarfile.PAX_FORMAT else 0))
    records = [container.record(index) for index in (3, 0, 1, 2)]
    assert [record.fields for record in records] == [FIELDS[3], *FIELDS[:3]]
    assert [container.key(index) for index in range(4)] == ["s-1.tar/000", "s-1.tar/a/001", "s-1.tar/a/b.c/002", "s-1.tar/003"]
    assert records[0].files["003.10.jpg"].read() == b"last" and records[1].files["jpg"].read() == b"picture 0"
    with records[3].files["a/b.c/002.mp4"].open() as clip:
        assert (clip.seek(2), clip.read(2), clip.read(), clip.seek(-3, 2), clip.read(99)) == (2, b"ip", b" 2", 3, b"p 2")


def test_long_names_folders_links_and_leftovers(tmp_path):
    for number, format in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        long = "d" * 120 + "/" + "\u00e9" * 90
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=format) as archive:
            for name, kind in (("folder", tarfile.DIRTYPE), ("link.txt", tarfile.SYMTYPE), ("hard.txt", tarfile.LNKTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "e" * 150
                archive.addfile(info)
            for name in ("._x.txt", ".DS_Store", f"{long}.txt"):
                info = tarfile.TarInfo(name)
                info.size = 2
                archive.addfile(info, io.BytesIO(b"hi"))
        container = opened(path)
        assert [container.key(index) for index in range(3)] == [f"{number}.tar/{name}" for name in ("link", "hard", long)]
        assert container.record(2).fields == {"text": "hi"}
        with pytest.raises(SampleError, match=r"the member link.txt is a link or a sparse file, which is not read: pack the file itself"):
            container.record(0)


def test_members_that_are_apart_are_one_record_and_others_are_shown(tmp_path):
    members = [
        ("1.jpg", b"a"),
        ("2.jpg", b"b"),
        ("2.txt", b"two"),
        ("1.txt", b"one"),
        ("1.seg.png", b"s"),
        ("1.cls", b"7"),
        ("1.npy", b"n"),
    ]
    first = opened(write_tar(tmp_path / "a.tar", members)).record(0).fields
    assert first == {"image": "1.jpg", "text": "one", "seg.png": "1.seg.png", "cls": "7", "npy": "1.npy"}


def test_a_row_may_name_its_only_file_as_it_was_before(tmp_path):
    row = {"image": "coco/train/7.jpg", "text": "x"}
    archive = write_tar(tmp_path / "a.tar", [("0.json", row), ("0.jpg", b"a"), ("1.json", row), ("1.0.jpg", b"b"), ("1.1.jpg", b"c")])
    container = opened(archive)
    assert container.record(0).files["coco/train/7.jpg"].read() == b"a"
    assert "coco/train/7.jpg" not in container.record(1).files


def test_a_caption_that_is_written_twice(tmp_path):
    rows = [("0.json", {"caption": "x"}), ("0.txt", b"x"), ("1.json", {"text": "x"}), ("1.txt", b"y"), ("2.txt", b"\xff")]
    container = opened(write_tar(tmp_path / "a.tar", rows))
    assert container.record(0).fields == {"caption": "x"}
    for index, reason in ((1, "bad_record"), (2, "bad_text")):
        with pytest.raises(SampleError, match=f"a.tar/{index}: the member") as caught:
            container.record(index)
        assert caught.value.reason == reason


def reasons(container):
    found = []
    for index in range(len(container)):
        try:
            container.record(index)
            found.append("")
        except SampleError as error:
            found.append(error.reason)
    return found


def test_bad_members_break_their_record_alone(tmp_path):
    members = [("0.txt", b"x"), ("1.json", b"{"), ("2.txt", b"y"), ("2.txt", b"z"), ("3.json", b"[1]"), ("4.txt", b"x")]
    container = opened(write_tar(tmp_path / "a.tar", members))
    assert reasons(container) == ["", "broken_json", "duplicate_key", "", ""]


@pytest.mark.parametrize(
    ("cut", "last", "message"),
    [
        (9 * 512, 3, "ends within a member"),
        (8 * 512, 3, "ends within a member"),
        (7 * 512 + 100, 2, "ends within a header"),
        (7 * 512, 2, "ends without the mark of its end"),
    ],
)
def test_an_archive_that_is_cut_keeps_what_is_surely_whole(tmp_path, cut, last, message):
    path = write_tar(tmp_path / "a.tar", [("0.txt", b"x"), ("1.txt", b"y"), ("2.txt", b"z" * 600), ("3.txt", b"w" * 1000)], mtime=0)
    path.write_bytes(path.read_bytes()[:cut])
    container = opened(path)
    assert reasons(container) == [""] * last + ["broken_record"]
    with pytest.raises(
        SampleError, match=rf"a.tar/{last}: .*a.tar {message}, at byte {cut:,}; the record may not be whole.*fetch the file again"
    ):
        container.record(last)


def test_garbage_in_the_middle_is_named_and_what_is_before_it_kept(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("0.txt", b"x"), ("1.txt", b"y"), ("2.txt", b"z")], mtime=0)
    content = bytearray(path.read_bytes())
    content[2048:2560] = b"garbage!" * 64
    path.write_bytes(content)
    container = opened(path)
    assert reasons(container) == ["", "broken_record"] and container.key(1) == "a.tar/1"
    with pytest.raises(SampleError, match="has no header where one belongs, at byte 2,048"):
        container.record(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1....", 'a Parquet file, not a tar archive: set the source\'s format to "parquet"'),
        (b"\x1f\x8b\x08..", "compressed with gzip, not a tar archive: unpack it"),
        (b'{"a": 1}\n{"a": 2}\n', 'JSON, not a tar archive: set the source\'s format to "jsonl"'),
        (b"\x01\x02\x03" * 300, "not a tar archive|no header where one belongs, at byte 0"),
        (bytes(10240), "holds no samples"),
        (b"", "holds no samples"),
    ],
)
def test_files_that_are_no_archives(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=f"source 'rows'.*a.tar.*({message})"):
        opened(tmp_path / "a.tar")


def test_many_shards_are_one_sequence_and_their_keys_are_distinct(tmp_path):
    for folder, count in (("x", 2), ("y", 0), ("z", 3)):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "s.tar", [(f"{number}.txt", f"{folder}{number}".encode()) for number in range(count)])
    container = Shards(Tar(), str(tmp_path / "{x,y,z}/s.tar"), Tables(None), "rows")
    assert [container.record(index).fields["text"] for index in range(5)] == ["x0", "x1", "z0", "z1", "z2"]
    assert [container.key(0), container.key(4)] == ["x/s.tar/0", "z/s.tar/2"]
    assert [(shard.name, shard.samples) for shard in container.shards()] == [("s.tar", 2), ("s.tar", 0), ("s.tar", 3)]
    with pytest.raises(IndexError):
        container.record(5)


def test_the_fingerprint_follows_content_and_not_place_or_time(tmp_path):
    def fingerprint(path):
        return opened(path, folder=tmp_path / "tables").shards()[0].fingerprint

    members = [(f"{number}.txt", bytes([number]) * 5000) for number in range(80)]
    first = fingerprint(write_tar(tmp_path / "a.tar", members))
    assert fingerprint(write_tar(tmp_path / "b.tar", members)) == first
    assert fingerprint(write_tar(tmp_path / "c.tar", [*members[:40], ("40.txt", b"x" * 4999), *members[41:]])) != first
    assert fingerprint(write_tar(tmp_path / "d.tar", members, mtime=7.5)) != first  # written at another time: not a copy


def test_an_archive_is_scanned_once(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    opened(path, folder=tmp_path / "tables")
    monkeypatch.setattr(Tar, "scan", None)
    assert [opened(path, folder=tmp_path / "tables").record(index).fields for index in range(4)] == FIELDS
