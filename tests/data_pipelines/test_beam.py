"""What of pipelines runs without Apache Beam: how a source is divided, and what the command says. tests/beam has the rest."""

import importlib
import importlib.util
import io
import pathlib
import sys
import tarfile
import types

import pytest
import small_corpus

from data_pipelines.beam import __main__ as command
from data_pipelines.beam.pieces import Division, tables_name
from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources import open_source


def write_files(root, names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        small_corpus.write_jsonl(root / name, [{"text": f"{name} {row}"} for row in range(number % 3 + 1)])
    return SourceSettings("texts", "jsonl", tuple(str(root / name) for name in names))


def test_samples_have_the_keys_of_the_whole_in_a_piece(tmp_path):
    settings = write_files(tmp_path, ["a/x/s.jsonl", "t.jsonl", "b/x/s.jsonl", "u/t.jsonl", "a/y/s.jsonl", "v.jsonl"])
    division, whole = Division(settings), open_source(settings)
    assert [len(piece.paths) for piece in division.pieces] == [3, 2, 1]
    number, shards = 0, whole.shards()
    for shard, (settings_of_piece, first) in zip(shards, division.places(shards), strict=True):
        piece = open_source(settings_of_piece)
        for row in range(shard.samples):
            assert (piece.key(first + row), piece[first + row]) == (whole.key(number), whole[number])
            number += 1
    assert number == len(whole)


def test_a_source_without_files_of_its_own_is_one_piece(tmp_path):
    small_corpus.write_image(tmp_path / "cat/1.png", 32, 32)
    (tmp_path / "cat/1.txt").write_text("A cat.")
    settings = SourceSettings("cats", "folder", str(tmp_path))
    division = Division(settings)
    assert division.pieces == [settings] and division.files(settings) == ()
    assert division.places(open_source(settings).shards()) == [(settings, 0)]


def test_tables_are_those_of_format_and_files(tmp_path):
    (piece,) = Division(write_files(tmp_path, ["a.jsonl"])).pieces
    assert tables_name(piece) == tables_name(SourceSettings("other", "jsonl", piece.path, prompts=("x",)))
    assert tables_name(piece) != tables_name(SourceSettings("texts", "jsonl", (str(tmp_path / "b.jsonl"),)))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"source 'texts': .*\*\.jsonl matches no file"):
        Division(SourceSettings("texts", "jsonl", str(tmp_path / "*.jsonl")))


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Apache Beam is installed")
@pytest.mark.parametrize("arguments", [["index", "--config=x"], ["convert", "--input=x", "--output=x", "--name=x", "--shard-samples=1"]])
def test_without_apache_beam_the_command_says_what_to_install(arguments, capsys):
    assert command.main(arguments) == 65
    assert "requirements-beam.txt" in capsys.readouterr().err


def test_an_archive_of_tables_never_leaves_its_folder(tmp_path, monkeypatch):
    """With a stand-in for Beam's file systems that opens local files."""
    filesystems = types.ModuleType("apache_beam.io.filesystems")
    filesystems.FileSystems = types.SimpleNamespace(open=lambda address: io.BytesIO(pathlib.Path(address).read_bytes()))
    for name, module in (
        ("apache_beam", types.ModuleType("b")),
        ("apache_beam.io", types.ModuleType("b")),
        (filesystems.__name__, filesystems),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "data_pipelines.beam.files", raising=False)
    files = importlib.import_module("data_pipelines.beam.files")
    monkeypatch.setitem(sys.modules, "data_pipelines.beam.files", files)  # forgotten afterwards
    (tmp_path / "secret").write_text("secret")
    for number, (member, kind, link) in enumerate(
        (
            ("../out", tarfile.REGTYPE, ""),
            ("a", tarfile.SYMTYPE, "../../secret"),
            ("b", tarfile.SYMTYPE, str(tmp_path / "secret")),
            ("c", tarfile.CHRTYPE, ""),
        )
    ):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            info = tarfile.TarInfo(member)
            info.type, info.linkname = kind, link
            archive.addfile(info)
        with pytest.raises(tarfile.FilterError):
            files.unpack(str(tmp_path / f"{number}.tar"), tmp_path / "tables")
    assert not any((tmp_path / "tables").iterdir()) and not (tmp_path / "out").exists()
