"""Pipelines on Beam's DirectRunner make what one machine makes."""

import gzip
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import small_corpus

from data_pipelines import convert as on_one_machine
from data_pipelines.beam import __main__ as command
from data_pipelines.index import __main__ as index_command
from data_pipelines.index import measures, work
from data_pipelines.schema import SourceSettings
from data_pipelines.sources import open_source

ROOT = pathlib.Path(__file__).parents[2]
MAIN = ROOT / ".venv" / "bin" / "python"
CONFIG = """
import ml_collections

def get_config(folder):
    source = {{"format": "jsonl", "path": {paths!r}, "media_root": {media!r}, "prompts": ("Look.", "See here.")}}
    copies = {{"format": "jsonl", "path": {copies!r}, "media_root": {media!r}}}
    listed = {{"format": "meta", "path": {meta!r}}}
    return ml_collections.ConfigDict({{
        "curriculum": (),
        "data": {{"index_folder": folder, "sources": {{"mixed": source, "copies": copies, "listed": listed}}, "heldout": {{"held": copies}}}},
        "tokenizer": {{"path": {tokenizer!r}}},
    }})
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Files of one name in two folders, an empty one, a compressed one, copies under another name, captions with prompts, broken rows, a meta file
    that repeats one dataset and takes half of another."""
    root = tmp_path_factory.mktemp("corpus")
    lines = small_corpus.write_corpus(root).read_text().splitlines(keepends=True)
    caption, broken = '{"image": "pictures/0.png", "caption": "A square."}\n', "{broken\n"
    files = {
        "a/s.jsonl": [*lines[:3], caption],
        "t.jsonl": [*lines[9:], broken],
        "b/s.jsonl": [*lines[3:9], caption, broken],
        "empty.jsonl": [],
    }
    for name, rows in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("".join(rows))
    (root / "c.jsonl.gz").write_bytes(gzip.compress("".join(lines[:2]).encode(), mtime=0))
    shutil.copy(root / "t.jsonl", root / "u.jsonl")
    media = str(root / "media")
    twice = {"root": media, "annotation": str(root / "a/s.jsonl"), "repeat_time": 2}
    half = {"root": media, "annotation": [str(root / "t.jsonl"), str(root / "b/s.jsonl")], "repeat_time": 0.5}
    (root / "meta.json").write_text(json.dumps({"twice": twice, "half": half}))
    values = {
        "paths": tuple(str(root / name) for name in [*files, "c.jsonl.gz"]),
        "copies": (str(root / "u.jsonl"), str(root / "t.jsonl")),
        "meta": str(root / "meta.json"),
    }
    tokenizer = str(small_corpus.GOLDEN / "tokenizer.json")
    (root / "config.py").write_text(CONFIG.format(**values, media=media, tokenizer=tokenizer))
    return root


@pytest.fixture
def inspected(monkeypatch):
    """The keys of the samples that were measured."""
    keys = []
    inspect = measures.inspect
    monkeypatch.setattr(measures, "inspect", lambda sample, *rest: keys.append(sample.key) or inspect(sample, *rest))
    monkeypatch.setattr(work, "CHUNK", 3)
    return keys


def contents(folder, without=()):
    """The files of a folder but locks and the folders `without`."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(without) and "lock" not in name}


def test_without_jax():
    """Nothing that a pipeline runs imports it."""
    modules = ", ".join(f"data_pipelines.beam.{path.stem}" for path in (ROOT / "data_pipelines/beam").glob("*.py"))
    program = f"import sys; sys.modules['jax'] = sys.modules['neo_jax'] = None; import {modules}; assert sys.modules['jax'] is None"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_an_index_is_that_of_one_machine_byte_for_byte(root, tmp_path, inspected, capsys):
    assert index_command.main([f"--config={root / 'config.py'}:{tmp_path / 'one'}", "--processes=1"]) == 0
    first, measured = capsys.readouterr().out, sorted(inspected)
    inspected.clear()
    assert command.main(["index", f"--config={root / 'config.py'}:{tmp_path / 'two'}"]) == 0
    assert capsys.readouterr().out == first.replace(str(tmp_path / "one"), str(tmp_path / "two"))
    assert sorted(inspected) == measured and len(list((tmp_path / "two/beam/training").iterdir())) > 5
    assert contents(tmp_path / "two", "beam/") == contents(tmp_path / "one")
    inspected.clear()
    assert command.main(["index", f"--config={root / 'config.py'}:{tmp_path / 'two'}"]) == 0 and not inspected


@pytest.mark.skipif(not MAIN.exists(), reason="needs the environment of training: make .venv/complete")
def test_an_index_is_that_of_other_versions(root, tmp_path):
    """Of numpy, Pillow and pyarrow."""
    index = [MAIN, "-m", "data_pipelines.index", f"--config={root / 'config.py'}:{tmp_path / 'one'}", "--processes=1"]
    subprocess.run(index, check=True, cwd=ROOT)
    assert command.main(["index", f"--config={root / 'config.py'}:{tmp_path / 'two'}"]) == 0
    assert contents(tmp_path / "two", "beam/") == contents(tmp_path / "one")


def test_an_index_through_an_object_store(root, tmp_path, store, inspected):
    assert index_command.main([f"--config={root / 'config.py'}:{tmp_path / 'one'}", "--processes=1"]) == 0
    arguments = ["index", f"--config={root / 'config.py'}:{tmp_path / 'two'}", "--work=store://work"]
    assert command.main(arguments) == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one") and list(store.glob("work/training/*.npz"))
    shutil.rmtree(tmp_path / "two")
    inspected.clear()
    assert command.main(arguments) == 0 and not inspected  # what the store holds is not measured again
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_signal_stops_it_and_the_next_call_goes_on(root, tmp_path, inspected, capsys, monkeypatch):
    arguments = ["index", f"--config={root / 'config.py'}:{tmp_path / 'two'}"]
    inspect = measures.inspect

    def signalled(sample, tokenizer):
        if len(inspected) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return inspect(sample, tokenizer)

    with monkeypatch.context() as patched:
        patched.setattr(measures, "inspect", signalled)
        assert command.main(arguments) == 75
    assert capsys.readouterr().err.splitlines()[-1].endswith("cancel it there")
    assert command.main(arguments) == 0
    assert index_command.main([f"--config={root / 'config.py'}:{tmp_path / 'one'}", "--processes=1"]) == 0
    assert contents(tmp_path / "two", "beam/") == contents(tmp_path / "one")


def test_a_worker_that_fails_ends_it_and_the_next_call_goes_on(root, tmp_path, inspected, capsys, monkeypatch):
    """The DirectRunner tries none again."""
    arguments = ["index", f"--config={root / 'config.py'}:{tmp_path / 'two'}"]
    measure, chunks = work.Chunk.measure, []

    def failing(chunk, *rest):
        chunks.append(chunk)
        if len(chunks) == 3:
            raise MemoryError("no room")
        return measure(chunk, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(work.Chunk, "measure", failing)
        assert command.main(arguments) == 65
    assert capsys.readouterr().err.splitlines()[-1] == "index: the pipeline 'measure' failed: no room"
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "two/beam").rglob("*.npz")}
    assert kept and command.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list((tmp_path / "two").rglob("*.partial"))


def flags(root, *more):
    inputs = [f"--input={root / name}" for name in ("a/s.jsonl", "t.jsonl", "empty.jsonl", "b/s.jsonl")]
    return [*inputs, f"--media-root={root / 'media'}", "--name=made", "--shard-samples=2", *more]


@pytest.mark.parametrize("target", ["tar", "parquet", "tfds"])
def test_a_conversion_is_that_of_one_machine(root, tmp_path, target):
    arguments = flags(root, f"--format={target}", "--max-failure-rate=0.5")
    assert on_one_machine.main([*arguments, f"--output={tmp_path / 'one'}"]) == 0
    assert command.main(["convert", *arguments, f"--output={tmp_path / 'two'}"]) == 0
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys() and sum("-of-00008" in name for name in one) == 8
    if target != "tfds":
        assert one == two
        return
    first, second = (open_source(SourceSettings("made", "tfds", str(tmp_path / place / "made/1.0.0"))) for place in ("one", "two"))
    assert [first[number] for number in range(len(first))] == [second[number] for number in range(len(second))]
    described = [name for name in one if "array_record" not in name]  # records hold maps, which protobuf writes in any order
    assert len(described) == 3 and all(one[name] == two[name] for name in described)


@pytest.mark.parametrize("target", ["tar", "tfds"])
def test_a_conversion_into_an_object_store(root, tmp_path, store, target, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = flags(root, f"--format={target}", "--max-failure-rate=0.5")
    assert on_one_machine.main([*arguments, f"--output={tmp_path / 'one'}"]) == 0
    assert command.main(["convert", *arguments, "--output=store://made"]) == 0
    one, stored = contents(tmp_path / "one", "made.skipped"), contents(store / "made")
    assert one.keys() == stored.keys() and (target == "tfds" or one == stored)
    assert (tmp_path / "made.skipped.jsonl").read_bytes() == (tmp_path / "one/made.skipped.jsonl").read_bytes()
    assert command.main(["convert", *arguments, "--output=store://made"]) == 65


def test_what_cannot_be_used_ends_as_on_one_machine(root, tmp_path, capsys):
    out = f"--output={tmp_path / 'out'}"
    (tmp_path / "not.parquet").write_text("no Parquet")
    cases = {
        "more than 1.00% of the samples failed: 3 of 20": flags(root, f"--input={root / 'u.jsonl'}"),
        "empty.jsonl holds no samples": [f"--input={root / 'empty.jsonl'}", "--name=made", "--shard-samples=2"],
        "not.parquet": [f"--input={tmp_path / 'not.parquet'}", "--input-format=parquet", "--name=made", "--shard-samples=2"],
        "none.tar (No such file or directory)": [f"--input={tmp_path / 'none.tar'}", "--name=made", "--shard-samples=2"],
        "Unexpected pipeline runner: Other": flags(root, "--runner=Other"),
        "Unable to get filesystem from specified path": flags(root, "--output=nowhere://out"),
        "cannot be read or written: ": flags(root, f"--output={root / 'config.py'}"),
    }
    for sentence, arguments in cases.items():
        assert command.main(["convert", out, *arguments]) == 65
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("convert: ") and sentence in last and "while running" not in last
    assert not list((tmp_path / "out").glob("made*/**"))


@pytest.mark.parametrize("wrong", [["--runer=FlinkRunner"], ["--shard-samples=0"], ["--name=a/b"]])
def test_a_wrong_flag(root, tmp_path, wrong):
    with pytest.raises(SystemExit) as stopped:
        command.main(["convert", *flags(root, *wrong), f"--output={tmp_path / 'out'}"])
    assert stopped.value.code == 2
