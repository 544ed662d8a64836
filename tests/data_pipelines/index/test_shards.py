"""Shards: known by content, measured by one of several processes, kept through kills."""

import collections
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import pytest
import small_corpus
from small_corpus import WIDE, phase, tokenizer

from data_pipelines.index import build, work
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.index.work import Recipe
from data_pipelines.schema import DataError, Interrupted, SourceSettings
from data_pipelines.sources import open_source

ROOT = pathlib.Path(__file__).parents[3]
TOKENIZER = str(small_corpus.GOLDEN / "tokenizer.json")


class Shard(NamedTuple):
    name: str
    fingerprint: str
    samples: int


class Sharded:
    """Several JSONL files as one source, each a shard."""

    def __init__(self, files, media_root, **changes):
        self.name = "mixed"
        self.settings = SourceSettings("mixed", "jsonl", "unused", str(media_root), **changes)
        self._parts = [open_source(SourceSettings("mixed", "jsonl", str(file), str(media_root), **changes)) for file in files]
        self._shards = [
            Shard(f.name, hashlib.sha256(f.read_bytes()).hexdigest(), len(part)) for f, part in zip(files, self._parts, strict=True)
        ]
        self._places = [(part, number) for part in self._parts for number in range(len(part))]
        self.ignored = collections.Counter()
        self.reads = []

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index):
        self.reads.append(index)
        part, number = self._places[index]
        return part[number]

    def key(self, index):
        part, number = self._places[index]
        return part.key(number)

    def shards(self):
        return self._shards


def divided(root, folder, edges):
    """The rows of the corpus between edges, a file each."""
    lines = (root / "mixed.jsonl").read_text().splitlines(keepends=True)
    folder.mkdir(exist_ok=True)
    files = [folder / f"part-{start}.jsonl" for start in edges[:-1]]
    for file, start, stop in zip(files, edges[:-1], edges[1:], strict=True):
        file.write_text("".join(lines[start:stop]))
    return files


def test_a_shard_that_is_added_is_measured_alone(root, tmp_path, inspected):
    files = divided(root, tmp_path / "shards", [0, 3, 7, 12])

    def index(files, folder="index"):
        inspected.clear()
        return LengthIndex.open(Sharded(files, root / "media"), tokenizer(), tmp_path / folder)

    assert len(index(files[:2])) == 7 and len(inspected) == 7
    whole = index(files)
    assert sorted(inspected) == sorted(f"part-7.jsonl:{line}" for line in range(1, 6))
    turned = index([files[2], files[0], files[1], files[0]])
    assert not inspected and len(turned) == 15 and turned.digest() != whole.digest()
    lengths = whole.lengths(phase(**WIDE, frames=0), 0)[:]
    assert (turned.lengths(phase(**WIDE, frames=0), 0)[:] == lengths[[*range(7, 12), *range(7), *range(3)]]).all()
    alone = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path / "alone")
    assert alone.digest() == whole.digest()  # however it is divided
    assert (alone.lengths(phase(**WIDE), 5)[:] == whole.lengths(phase(**WIDE), 5)[:]).all()


def test_a_copy_elsewhere_is_not_measured_again(root, tmp_path, inspected):
    files = divided(root, tmp_path / "here", [0, 3, 12])
    before = LengthIndex.open(Sharded(files, root / "media"), tokenizer(), tmp_path / "index").digest()
    shutil.copytree(root / "media", tmp_path / "there/media")
    copies = divided(root, tmp_path / "there", [0, 3, 12])
    inspected.clear()
    assert LengthIndex.open(Sharded(copies, tmp_path / "there/media"), tokenizer(), tmp_path / "index").digest() == before
    assert not inspected
    for changes in ({"pictures": "reference"}, {"ignore": ("id",)}):
        LengthIndex.open(Sharded(copies, tmp_path / "there/media", **changes), tokenizer(), tmp_path / "index")
        assert len(inspected) == 12  # read in another way
        inspected.clear()


def test_damage_of_one_shard_has_it_alone_measured_again(root, tmp_path, inspected, capsys):
    source = Sharded(divided(root, tmp_path / "shards", [0, 3, 7, 12]), root / "media")
    index = LengthIndex.open(source, tokenizer(), tmp_path / "index")
    expected = index.lengths(phase(), 0)[:]
    shards = {path: len(np.load(next(path.glob("text-*.npy")))) for path in index.path.iterdir() if path.is_dir()}
    (damaged,) = [path for path, samples in shards.items() if samples == 4]
    column = next(damaged.glob("sizes-*.npy"))
    column.write_bytes(column.read_bytes()[:-1] + b"\xff")
    shutil.rmtree(tmp_path / "index/joined")
    inspected.clear()
    assert (LengthIndex.open(source, tokenizer(), tmp_path / "index").lengths(phase(), 0)[:] == expected).all()
    assert len(inspected) == 4 and f"the index {damaged} (the checksum of sizes-" in capsys.readouterr().err
    (joined,) = (tmp_path / "index/joined").glob("*/sizes-*.npy")
    joined.write_bytes(joined.read_bytes()[:-1] + b"\xff")
    assert (LengthIndex.open(source, tokenizer(), tmp_path / "index").lengths(phase(), 0)[:] == expected).all()
    assert len(inspected) == 4 and "it is put together again" in capsys.readouterr().err


def forty(root, present=40):
    for number in range(present):
        small_corpus.write_image(root / f"media/{number}.png", 64, 64, number)
    rows = [{"image": f"{number}.png", "conversations": small_corpus.turns("<image>\nWhat is it?")} for number in range(40)]
    return [small_corpus.write_jsonl(root / "rows.jsonl", rows)]


def test_of_many_media_files_a_few_are_looked_at(tmp_path, inspected, monkeypatch):
    monkeypatch.setattr(build, "LOOKED_AT", 5)
    source = Sharded(forty(tmp_path), tmp_path / "media")

    def index():
        inspected.clear()
        source.reads.clear()
        index = LengthIndex.open(source, tokenizer(), tmp_path / "index", threads=1)
        return index.digest(), (index.path / "index.json").read_bytes()

    before = index()
    assert index() == before and len(source.reads) == 5 and not inspected
    for number in range(40):  # a copy with new times
        os.utime(tmp_path / f"media/{number}.png", ns=(1, 1))
    for _ in range(2):
        assert index() == before and len(inspected) == 5
    for number in range(0, 40, 2):
        small_corpus.write_image(tmp_path / f"media/{number}.png", 256, 320, number)
    after = index()
    assert after[0] != before[0] and set(inspected) == {f"rows.jsonl:{line}" for line in range(1, 41)}
    assert index() == after and len(source.reads) == 5 and not inspected


def test_of_many_missing_files_a_few_are_looked_at_until_one_arrives(tmp_path, inspected, monkeypatch):
    monkeypatch.setattr(build, "LOOKED_AT", 5)
    source = Sharded(forty(tmp_path, 10), tmp_path / "media")

    def index():
        inspected.clear()
        source.reads.clear()
        return LengthIndex.open(source, tokenizer(), tmp_path / "index", threads=1)

    assert index().unusable == {"missing_file": 30}
    assert index().unusable == {"missing_file": 30} and len(source.reads) <= 15
    for number in range(10, 40):
        small_corpus.write_image(tmp_path / f"media/{number}.png", 64, 64, number)
    late = index()
    assert late.usable.tolist() == list(range(40)) and not late.unusable and not late.log.read_text()


def test_failures_of_rows_alone_are_remembered(tmp_path, monkeypatch):
    source = Sharded([small_corpus.write_broken_corpus(tmp_path)], tmp_path / "media")
    first = LengthIndex.open(source, tokenizer(), tmp_path / "index")
    source.reads.clear()
    second = LengthIndex.open(source, tokenizer(), tmp_path / "index")
    assert second.unusable == first.unusable and second.digest() == first.digest() and second.log.read_text() == first.log.read_text()
    lasting = {number for number in range(14) if number not in source.reads}
    assert lasting == {9, 10, 11, 13}  # broken JSON, an unknown role, marks without images; and text, which has no files


def recipe(root):
    return Recipe(
        SourceSettings("mixed", "jsonl", str(root / "mixed.jsonl"), str(root / "media")), str(root / "tables"), TOKENIZER, True, 3
    )


@pytest.fixture
def three_processes(monkeypatch):
    monkeypatch.setattr(work, "CHUNK", 2)


def test_other_processes_build_the_same_bytes(root, tmp_path, inspected, three_processes):
    source = small_corpus.jsonl(root / "mixed.jsonl")
    own = LengthIndex.open(source, tokenizer(), tmp_path / "own")
    assert len(inspected) == 12
    inspected.clear()
    others = LengthIndex.open(source, tokenizer(), tmp_path / "others", recipe=recipe(root))
    assert not inspected and others.digest() == own.digest()
    for path in own.path.iterdir():
        assert path.read_bytes() == (others.path / path.name).read_bytes()


def test_processes_that_measure_import_neither_jax_nor_the_trainer():
    program = "import sys, data_pipelines.index.worker; assert not {'jax', 'neo_jax'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_process_that_is_killed_ends_the_work_with_a_sentence(root, tmp_path, three_processes, monkeypatch):
    measure, calls = work._Process.measure, []

    def killed(process, chunk):
        calls.append(chunk)
        if len(calls) == 5:
            process._process.kill()
        return measure(process, chunk)

    source = small_corpus.jsonl(root / "mixed.jsonl")
    with (
        monkeypatch.context() as patched,
        pytest.raises(DataError, match=r"indexing 'mixed', samples .*exit code -9 .*start again to go on"),
    ):
        patched.setattr(work._Process, "measure", killed)
        LengthIndex.open(source, tokenizer(), tmp_path, recipe=recipe(root))
    assert 1 <= len(list(tmp_path.glob("shards/*/parts/*.npz"))) <= 5
    index = LengthIndex.open(source, tokenizer(), tmp_path, recipe=recipe(root))
    assert index.digest() == LengthIndex.open(source, tokenizer(), tmp_path / "whole").digest()


def test_an_error_in_a_process_is_told_here(root, tmp_path, three_processes):
    missing = recipe(root)._replace(tokenizer=str(tmp_path / "none.model"))
    with pytest.raises(DataError, match=r"indexing 'mixed', samples \d+ to \d+: tokenizer .*none.model: no such file"):
        LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path, recipe=missing)


def test_a_stop_keeps_what_processes_measured(root, tmp_path, three_processes):
    def stop():
        return len(list(tmp_path.glob("shards/*/parts/*.npz"))) >= 2

    source = small_corpus.jsonl(root / "mixed.jsonl")
    with pytest.raises(Interrupted, match="the next start continues from there"):
        LengthIndex.open(source, tokenizer(), tmp_path, recipe=recipe(root), stop=stop)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*/parts/*.npz")}
    assert len(kept) >= 2
    index = LengthIndex.open(source, tokenizer(), tmp_path, recipe=recipe(root))
    assert index.digest() == LengthIndex.open(source, tokenizer(), tmp_path / "whole").digest()
    assert not list(tmp_path.glob("shards/*/parts"))


BUILD = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(small_corpus.__file__).parent)!r})
import small_corpus
from data_pipelines.index import measures, work
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.schema import SourceSettings
root, folder, processes = small_corpus.pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
work.CHUNK = 2
measured = []
inspect = measures.inspect
measures.inspect = lambda sample, *rest: measured.append(sample.key) or inspect(sample, *rest)
settings = SourceSettings("mixed", "jsonl", str(root / "mixed.jsonl"), str(root / "media"))
recipe = work.Recipe(settings, str(root / "tables"), {TOKENIZER!r}, True, processes)
index = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), small_corpus.tokenizer(), folder, recipe=recipe)
print(index.digest(), len(measured))
"""


def start(root, folder, processes):
    command = [sys.executable, "-c", BUILD, str(root), str(folder), str(processes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_of_processes_at_once_one_measures(root, tmp_path):
    several = [start(root, tmp_path, 1) for _ in range(3)]
    outputs = [process.communicate()[0].split() for process in several]
    assert [process.returncode for process in several] == [0, 0, 0]
    whole = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path / "whole")
    assert [digest for digest, _ in outputs] == [whole.digest()] * 3
    assert sorted(int(count) for _, count in outputs) == [0, 0, 12]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_build_that_is_killed_again_and_again_ends_as_one_that_was_not(root, tmp_path, processes):
    """Killed when so many parts are there; then left to end."""

    def parts():
        return len(list(tmp_path.glob("shards/*/parts/[!.]*.npz")))

    for count in (1, 3, 5):
        process = start(root, tmp_path, processes)
        while parts() < count and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(root, tmp_path, processes)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    whole = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path / "whole")
    digest, measured = output.split()
    assert digest == whole.digest() and int(measured) < 12
    (path,) = (path for path in (tmp_path / "shards").iterdir() if path.is_dir())
    named = json.loads((path / "index.json").read_text())["columns"].values()
    assert {file.name for file in path.glob("*.npy")} == {each["file"] for each in named}
