"""Members are found where Python's own tarfile finds them."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.sources.containers.tar_members import Headers

NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1, max_size=120)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
MEMBERS = st.lists(st.tuples(PATHS, st.integers(0, 1500), st.sampled_from([0, 0.5, 1e9, 2**40])), max_size=6)


class Bytes:
    """An archive in memory."""

    address = "memory"

    def __init__(self, content):
        self._content, self.size = content, len(content)

    def read(self, start, length):
        data = self._content[start : start + length]
        assert len(data) == length
        return data


def archive(members, format):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=format) as file:
        for name, size, time in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = size, time if format == tarfile.PAX_FORMAT else int(time) % 2**32
            file.addfile(info, io.BytesIO(b"x" * size))
    return content.getvalue()


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@settings(max_examples=60, deadline=None)
@given(members=MEMBERS)
def test_names_and_places_are_those_of_tarfile(format, members):
    content = archive(members, format)
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        expected = [(info.name, info.offset_data, info.size) for info in file]
    headers = Headers(Bytes(content))
    assert [tuple(member) for member in headers.members()] == expected and headers.damage == ""


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 6000), flip=st.integers(0, 6000))
def test_no_damage_raises_or_reads_past_the_end(cut, flip):
    """Headers whose bits are flipped, archives that are cut: what is found is named, and the rest is said to be damaged or is at the end."""
    content = bytearray(archive([("a/" + "n" * 150 + ".txt", 700, 0.5), ("b.txt", 1, 0), ("\u00e9.jpg", 1400, 0.5)], tarfile.PAX_FORMAT))
    content[flip % len(content)] ^= 0xFF
    content = bytes(content[: max(cut, 1)])
    headers = Headers(Bytes(content))
    members = list(headers.members())
    assert all(member.start + member.size <= len(content) for member in members) or headers.damage


def test_a_sparse_file_is_told_and_passed_over_with_its_content():
    content = bytearray(archive([("a.txt", 700, 0), ("b.txt", 1, 0)], tarfile.GNU_FORMAT))
    content[156:157] = b"S"  # a sparse file of GNU tar
    assert [(member.name, member.start) for member in Headers(Bytes(bytes(content))).members()] == [("a.txt", -1), ("b.txt", 2048)]
