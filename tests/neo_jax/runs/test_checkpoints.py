"""Checkpoints come back as they were written, on any mesh; a damaged one is noticed, set aside and replaced by the one before it."""

import collections
import pathlib
import shutil

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding

from neo_jax.runs import checkpoints as checkpoints_module
from neo_jax.runs.checkpoints import CheckpointError, Checkpoints, checksum
from neo_jax.sharding import make_mesh, spec

SHARDED = {"fsdp": 8}
RECORD = {"phase": 1, "tokens": 2**40, "seconds": 0.1 + 0.2, "input": {"cursor": [3, 4], "block": None}}


def state(step: int = 0, **axes: int) -> dict:
    """Parameters and Adam's state on a mesh of these axes; other numbers for every step."""
    mesh = make_mesh(**axes) if axes else make_mesh(devices=jax.devices()[:1])
    rng = np.random.default_rng(step)

    def put(value, *logical):
        return jax.device_put(value, NamedSharding(mesh, spec(*logical)))

    def matrix():
        return put(rng.standard_normal((256, 64)).astype(np.float32), None, "embed")

    moments = optax.ScaleByAdamState(put(np.int32(step)), matrix(), matrix())
    norm = put(rng.standard_normal((2, 8)).astype(np.float32), None, None)
    return {"trainable": {"embedding": matrix()}, "frozen": {"base.mlp_norm": norm}, "moments": {"embedding": moments}}


def template(**axes: int):
    return lambda record: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(**axes))


def assert_equal(ours, expected):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype and mine.sharding == theirs.sharding


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> pathlib.Path:
    """A run directory with the checkpoints of steps 2 and 3; 1 is beyond what is kept."""
    run = tmp_path_factory.mktemp("written")
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step, **SHARDED), RECORD | {"step": step})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()
    return run


@pytest.fixture
def run(two_steps, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(two_steps, tmp_path / "run"))


def restore(run: pathlib.Path, **axes: int):
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    try:
        return checkpoints.restore(template(**(axes or SHARDED)))
    finally:
        checkpoints.close()


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path) is None


def test_newest_comes_back(run):
    step, restored, record = restore(run)
    assert (step, record) == (3, RECORD | {"step": 3})
    assert_equal(restored, state(3, **SHARDED))


@pytest.mark.parametrize("axes", [{"data": 2, "fsdp": 4}, {"fsdp": 2, "context": 2, "tensor": 2}])
def test_another_mesh(run, axes):
    _, restored, _ = restore(run, **axes)
    assert_equal(restored, state(3, **axes))


def test_the_state_may_change_while_it_is_written(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    written = state(5, **SHARDED)
    checkpoints.save(5, written, RECORD)
    jax.tree.map(lambda x: x.delete(), written)
    checkpoints.close()
    assert_equal(restore(tmp_path)[1], state(5, **SHARDED))


def test_checksum_is_independent_of_the_mesh():
    sums = {int(checksum(state(3, **axes))) for axes in ({}, SHARDED, {"data": 8}, {"fsdp": 2, "tensor": 4})}
    assert len(sums) == 1 and int(checksum(state(4))) not in sums


def test_checksum_of_what_is_kept_in_host_memory():
    on_devices = state(3, **SHARDED)
    moments = jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind("pinned_host")), on_devices["moments"])
    assert int(checksum(on_devices | {"moments": moments})) == int(checksum(on_devices))


def test_checksum_sees_any_bit_and_any_place():
    original = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    changed = {"original": original, "order of arrays": None, "transposed rows": original[::-1].copy(), "negative zero": original * 1}
    changed["zero"] = original * 1
    changed["zero"][0, 0], changed["negative zero"][0, 0] = 0.0, -0.0
    for bit in range(32):
        flipped = original.copy()
        flipped.view(np.uint32)[2, 3] ^= np.uint32(1 << bit)
        changed[f"bit {bit}"] = flipped
    other = np.ones((4, 6), np.float32)
    sums = {
        name: int(checksum({"a": other, "b": original} if value is None else {"a": value, "b": other})) for name, value in changed.items()
    }
    assert [name for name, times in collections.Counter(sums.values()).items() if times > 1] == []


def flip(path: pathlib.Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 0x10
    path.write_bytes(bytes(content))


def files(run: pathlib.Path, step: int) -> list[pathlib.Path]:
    """Files of a checkpoint that matter, the largest first: the arrays."""
    every = (path for path in (run / "checkpoints" / str(step)).rglob("*") if path.is_file())
    return sorted(every, key=lambda path: -path.stat().st_size)


@pytest.mark.parametrize("place", [1000, 20_000, 50_000, -5000])
def test_a_flipped_bit_in_array_data_is_noticed(run, place, caplog):
    arrays = files(run, 3)[0]
    assert arrays.stat().st_size > 100_000
    flip(arrays, place)
    step, restored, record = restore(run)
    assert (step, record["step"]) == (2, 2)
    assert_equal(restored, state(2, **SHARDED))
    assert (run / "quarantine-3").is_dir() and not (run / "checkpoints" / "3").exists()
    assert any("checkpoint 3 cannot be read" in message for message in caplog.messages)
    assert restore(run)[0] == 2  # and so it stays


def test_damage_anywhere_is_never_silent(two_steps, tmp_path):
    """Whatever file is damaged, the newest checkpoint comes back whole or the one before it does."""
    outcomes = collections.Counter()
    for number, original in enumerate(files(two_steps, 3)):
        for place in (40, original.stat().st_size // 2):
            run = pathlib.Path(shutil.copytree(two_steps, tmp_path / f"{number}{place}"))
            flip(run / original.relative_to(two_steps), place)
            step, restored, record = restore(run)
            assert_equal(restored, state(step, **SHARDED))
            assert record == RECORD | {"step": step}
            outcomes[step] += 1
    assert outcomes[2] >= 6


@pytest.mark.parametrize(("old", "new"), [('"step": 3', '"step": 1'), ("init_timestamp", "xnit_timestamp"), ("{", "[")])
def test_a_damaged_record_is_noticed(run, old, new):
    path = next(path for path in files(run, 3) if old in path.read_bytes().decode(errors="replace") and path.parent.name == "3")
    path.write_text(path.read_text().replace(old, new, 1))
    assert restore(run)[2] == RECORD | {"step": 2}


def test_none_can_be_read(run):
    for step in (2, 3):
        flip(files(run, step)[0], 1000)
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read.*quarantine-2, quarantine-3"):
        restore(run)
    with pytest.raises(CheckpointError, match="delete them to begin the run anew"):  # not begun anew behind the user's back
        restore(run)


def test_a_missing_file(run):
    files(run, 3)[0].unlink()
    assert restore(run)[0] == 2


def test_too_little_disk(run, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(checkpoints_module.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    with pytest.raises(CheckpointError, match="MiB are free; the last checkpoint is untouched"):
        checkpoints.save(4, state(4, **SHARDED), RECORD)
    checkpoints.close()
    monkeypatch.undo()
    assert restore(run)[0] == 3
