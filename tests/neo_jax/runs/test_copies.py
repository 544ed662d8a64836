"""Copies of run directories: whole or not used, on a disk and in a real S3-compatible server."""

import logging
import pathlib
import shutil
import threading
import time

import pytest

from neo_jax.runs import copies
from neo_jax.runs.copies import Copies, copy, fetch
from tests.data_pipelines.storage import stores


@pytest.fixture(scope="module")
def server():
    with stores.s3_server() as store:
        yield store


@pytest.fixture(params=["disk", "s3"])
def address(request, tmp_path, monkeypatch, server) -> str:
    if request.param == "disk":
        return str(tmp_path / "slow" / "run")
    for name, value in stores.KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    return f"s3://bucket/{tmp_path.name}"


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def made(directory: pathlib.Path, *steps: int) -> pathlib.Path:
    for step in steps:
        folder = directory / "checkpoints" / str(step)
        (folder / "state" / "d").mkdir(parents=True)
        (folder / "state" / "d" / "array").write_bytes(bytes(range(step)) * 999)
        (folder / "_METADATA").write_text(f'{{"step": {step}}}')
    (directory / "config.json").write_text("{}")
    (directory / "metrics.jsonl").write_text("a line\n")
    (directory / "initial").mkdir(exist_ok=True)
    (directory / "initial" / "origin.json").write_text("{}")
    (directory / "compilation_cache").mkdir(exist_ok=True)
    (directory / "compilation_cache" / "program").write_bytes(b"large")
    (directory / "lock").touch()
    return directory


def test_a_lost_run_directory_comes_back(tmp_path, address):
    directory = made(tmp_path / "run", 3, 6)
    for step in (3, 6):
        copy(directory, address, step)
    new = tmp_path / "new"
    new.mkdir()
    assert fetch(address, new) == 6
    expected = {
        name: value for name, value in contents(directory).items() if not name.startswith(("compilation_cache", "lock", "checkpoints/3"))
    }
    assert contents(new) == expected and "initial/origin.json" in expected
    assert fetch(address, new) is None  # what is there counts


def test_the_newest_two_are_kept(tmp_path, address):
    directory = made(tmp_path / "run", 1, 2, 3, 4)
    for step in (1, 2, 3, 4):
        copy(directory, address, step)
    new = tmp_path / "new"
    new.mkdir()
    system, root = copies.file_system(address)
    assert {path.split("/")[0] for path in copies.sizes(system, f"{root}/checkpoints")} == {"3", "4"}


def test_nothing_was_copied_yet(tmp_path, address):
    tmp_path.joinpath("new").mkdir()
    assert fetch(address, tmp_path / "new") is None
    assert fetch("", tmp_path / "new") is None


def test_a_copy_that_was_cut_is_not_taken(tmp_path):
    address = tmp_path / "slow"
    copy(made(tmp_path / "run", 3), str(address), 3)
    (address / "checkpoints" / "3" / "state" / "d" / "array").write_bytes(b"cut")
    (tmp_path / "new").mkdir()
    with pytest.raises(OSError, match="is not whole"):
        fetch(str(address), tmp_path / "new")
    assert not (tmp_path / "new" / "config.json").exists()
    (address / "complete.json").write_text("{")
    with pytest.raises(OSError, match=r"complete\.json is damaged"):
        fetch(str(address), tmp_path / "new")


def test_a_copy_that_was_interrupted_leaves_the_one_before(tmp_path, monkeypatch):
    """complete.json is written last, so half of a copy is never fetched."""
    directory, address = made(tmp_path / "run", 3, 6), str(tmp_path / "slow")
    copy(directory, address, 3)

    def cut(source_system, source, target_system, target, original=copies._put):
        if "checkpoints/6" in target:
            raise OSError("no space left")
        original(source_system, source, target_system, target)

    monkeypatch.setattr(copies, "_put", cut)
    with pytest.raises(OSError, match="no space left"):
        copy(directory, address, 6)
    monkeypatch.undo()
    (tmp_path / "new").mkdir()
    assert fetch(address, tmp_path / "new") == 3


def test_training_goes_on_when_a_copy_fails_or_is_slow(tmp_path, monkeypatch, caplog):
    release, copied = threading.Event(), []

    def slow(directory, address, step):
        assert release.wait(30)
        if step == 2:
            raise OSError("the store is away")
        copied.append(step)

    monkeypatch.setattr(copies, "copy", slow)
    making = Copies("somewhere", tmp_path)

    def saved(step):
        making.start(step)
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)

    with caplog.at_level(logging.WARNING):
        saved(2)
        while making._wanted is not None:  # until the thread has taken it
            pass
        for step in (4, 6, 8):
            saved(step)
        release.set()
        making.close()
    assert copied == [8]  # those in between are not worth a copy any more
    assert "checkpoint 2 to somewhere failed (the store is away)" in caplog.text
    saved(10)
    making.close()
    assert copied == [8, 10]


def test_a_checkpoint_is_copied_as_soon_as_it_is_complete(tmp_path, monkeypatch):
    """Not before, not the one that it replaces, and without waiting for another save; one that never is does not hold up the end."""
    copied = []
    monkeypatch.setattr(copies, "copy", lambda directory, address, step: copied.append((step, (folder / "name").read_text())))
    monkeypatch.setattr(copies, "POLL_SECONDS", 0.01)
    making, folder = Copies("somewhere", tmp_path), tmp_path / "checkpoints" / "2"
    folder.mkdir(parents=True)
    (folder / "name").write_text("old")
    making.start(2)
    time.sleep(0.1)
    assert copied == []
    (tmp_path / "written").mkdir()
    (tmp_path / "written" / "name").write_text("new")
    shutil.rmtree(folder)
    (tmp_path / "written").rename(folder)
    deadline = time.monotonic() + 10
    while not copied and time.monotonic() < deadline:
        time.sleep(0.01)
    assert copied == [(2, "new")]
    making.start(4)
    making.close()
    assert copied == [(2, "new")]


def test_the_address_may_be_wrong(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OSError):
        copy(made(tmp_path / "run", 3), str(blocked), 3)
