"""Tables that several processes make at once, that a kill interrupts, and that cannot be written."""

import gzip
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers import lines
from data_pipelines.sources.containers.lines import Lines
from data_pipelines.sources.containers.shards import Shards, distinct_names
from data_pipelines.sources.containers.tables import Tables

OPEN = """
import pathlib, sys
from data_pipelines.sources.containers.lines import Lines
from data_pipelines.sources.containers.shards import Shards
from data_pipelines.sources.containers.tables import Tables
scan = Lines.scan
def counted(self, file, tables, source):
    with open(sys.argv[3], "a") as log:
        log.write(file.address + "\\n")
    return scan(self, file, tables, source)
Lines.scan = counted
print("ready", flush=True)
sys.stdin.readline()
container = Shards(Lines(), sys.argv[1], Tables(pathlib.Path(sys.argv[2])), "rows")
print([container.record(index).fields["n"] for index in range(len(container))], flush=True)
"""
STOP_IN_A_SCAN = """
import pathlib, sys
from data_pipelines.sources.containers import lines
from data_pipelines.sources.containers.shards import Shards
from data_pipelines.sources.containers.tables import Tables
def stop(*arguments):
    print("scanning", flush=True)
    sys.stdin.readline()
lines._write_filled = stop
Shards(lines.Lines(), sys.argv[1], Tables(pathlib.Path(sys.argv[2])), "rows")
"""


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path.cwd(),
    )


def write_shards(folder, count):
    for shard in range(count):
        rows = "".join(json.dumps({"n": shard * 10 + row}) + "\n" for row in range(10))
        (folder / f"{shard}.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    return folder / "*.gz"


def test_processes_that_open_a_source_at_once_share_the_work(tmp_path):
    pattern = write_shards(tmp_path, 5)
    processes = [start(OPEN, pattern, tmp_path / "tables", tmp_path / "log") for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in processes]
    assert outputs == [f"{list(range(50))}\n"] * 3
    assert sorted((tmp_path / "log").read_text().splitlines()) == sorted(str(tmp_path / f"{n}.jsonl.gz") for n in range(5))
    assert not list((tmp_path / "tables").glob("*.partial"))


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path):
    pattern = write_shards(tmp_path, 1)
    process = start(STOP_IN_A_SCAN, pattern, tmp_path / "tables")
    assert process.stdout.readline() == "scanning\n"
    assert list((tmp_path / "tables").glob("*.partial")) and not list((tmp_path / "tables").glob("*.json"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    container = Shards(Lines(), str(pattern), Tables(tmp_path / "tables"), "rows")
    assert [container.record(index).fields["n"] for index in range(10)] == list(range(10))
    assert not list((tmp_path / "tables").glob("*.partial"))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, 1)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write tables of shards to .*file/tables .*name another folder"):
        Tables(tmp_path / "file/tables")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lines, "_write_filled", full)
    with pytest.raises(DataError, match=r"cannot write tables of shards to .* \(No space left on device\): make room"):
        Shards(Lines(), str(pattern), Tables(tmp_path / "tables"), "rows")
    assert not list((tmp_path / "tables").glob("*.partial"))


def test_tables_without_a_folder_are_gone_with_their_source(tmp_path):
    container = Shards(Lines(), str(write_shards(tmp_path, 1)), tables := Tables(None), "rows")
    folder = tables.folder
    assert list(folder.glob("*.rows"))
    del container, tables
    assert not folder.exists()


@pytest.mark.parametrize(
    ("addresses", "names"),
    [
        (["/a/x.tar", "/b/y.tar"], ["x.tar", "y.tar"]),
        (["/a/b/x.tar", "/a/c/x.tar", "/a/c/y.tar"], ["b/x.tar", "c/x.tar", "y.tar"]),
        (["/a/1/d/x.tar", "/a/2/d/x.tar"], ["1/d/x.tar", "2/d/x.tar"]),
        (["s3://one/x.tar", "s3://two/x.tar"], ["one/x.tar", "two/x.tar"]),
        (["x.tar"], ["x.tar"]),
    ],
)
def test_names_of_shards_are_as_long_as_tells_them_apart(addresses, names):
    assert distinct_names(addresses) == names


def test_one_name_in_two_folders_is_two_places(tmp_path, monkeypatch):
    """Of equal size and time of change, as a copy of an edited file may have."""
    for name, n in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text(json.dumps({"n": n}) + "\n")
        os.utime(tmp_path / name / "x.jsonl", ns=(1, 1))
        monkeypatch.chdir(tmp_path / name)
        assert Shards(Lines(), "x.jsonl", Tables(tmp_path / "tables"), "rows").record(0).fields == {"n": n}


def test_a_shard_that_is_written_again_while_it_is_used_is_told(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    container = Shards(Lines(), str(tmp_path / "x.jsonl"), Tables(None), "rows")
    (tmp_path / "x.jsonl").write_text('{"n":    1}\n')
    with pytest.raises(SampleError, match=r"x.jsonl\[1\]: .*x.jsonl was written again since the source was opened: start again"):
        container.record(1)
