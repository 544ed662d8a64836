"""Checkpoints come back as they were written, on any mesh; a damaged one is noticed, set aside and replaced by the one before it."""

import collections
import dataclasses
import errno
import pathlib
import shutil

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding

from data_pipelines.planning.planner import InputState
from neo_jax.runs import checkpoints as checkpoints_module
from neo_jax.runs import reading
from neo_jax.runs.checkpoints import Checkpoints
from neo_jax.runs.places import find
from neo_jax.runs.reading import CheckpointError
from neo_jax.runs.record import CheckpointRecord, Position, checksum
from neo_jax.sharding import make_mesh, spec

SHARDED = {"fsdp": 8}


def record(step: int) -> CheckpointRecord:
    position = Position(1, step, step, InputState(1, 8 * step, 3, (4, 5)))
    return CheckpointRecord(
        position, ["text", "image"], 2**40, 0.1 + 0.2, {"tokenizer": "a"}, {"samples": 3}, {"run": {"seed": 0}, "curriculum": ["a", "b"]}
    )


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
        checkpoints.save(state(step, **SHARDED), record(step))
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


def restored_step(run: pathlib.Path) -> int:
    return restore(run)[1].position.step


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path) is None


def test_steps_that_are_named_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, keep_steps=(1, 3))
    for step in (1, 2, 3, 4):
        checkpoints.save(state(step), record(step))
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3, 4]
    checkpoints.close()


def test_multiples_and_the_best_are_kept(tmp_path):
    """Of the latest phase; also after the run was started again, which reads what earlier starts measured."""
    losses = {1: 0.1, 2: 0.5, 3: 0.2, 4: 0.7, 5: 0.3, 6: None, 7: 0.9, 8: 0.8}
    for steps, left in (((1, 2, 3, 4), [3, 4]), ((5, 6), [3, 4, 6]), ((7, 8), [3, 4, 8])):
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, keep_every=4, keep_best=1)
        for step in steps:
            made = record(step)
            phase = dataclasses.replace(made.position, phase=0 if step == 1 else 1)
            checkpoints.save(state(step), dataclasses.replace(made, position=phase, heldout=losses[step]))
        checkpoints.wait()
        assert checkpoints.steps() == left
        checkpoints.close()
    assert find(f"{tmp_path}:best").record.position.step == 3
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    assert checkpoints.restore(template())[1].position.step == 8
    checkpoints.close()
    with pytest.raises(CheckpointError, match="has no checkpoint of a phase 'bst'"):
        find(f"{tmp_path}:bst")


def test_parameters_alone_are_read_and_verified(run):
    folder = run / "checkpoints" / "3"
    found, sums = reading.read_record(folder)
    wanted = {part: arrays for part, arrays in template(**SHARDED)(found).items() if part != "moments"}
    read = reading.read_arrays(folder, wanted, sums["checksums"])
    assert_equal(read, {part: arrays for part, arrays in state(3, **SHARDED).items() if part != "moments"})
    with pytest.raises(reading.DamagedError, match="the checksum of its frozen differs"):
        reading.read_arrays(folder, wanted, sums["checksums"] | {"frozen": 0})


def test_a_checkpoint_of_an_older_version_is_not_called_damaged(run, monkeypatch):
    metadata = reading.ocp.checkpointables_metadata

    def older(folder):
        found = metadata(folder)
        found.custom_metadata["checksum"] = found.custom_metadata.pop("checksums")
        return found

    monkeypatch.setattr(reading.ocp, "checkpointables_metadata", older)
    with pytest.raises(CheckpointError, match=r"checkpoints/3 was saved by an older version"):
        restore(run)
    assert untouched(run)


def test_newest_comes_back(run):
    restored, found = restore(run)
    assert found == record(3)
    assert_equal(restored, state(3, **SHARDED))


@pytest.mark.parametrize("axes", [{"data": 2, "fsdp": 4}, {"fsdp": 2, "context": 2, "tensor": 2}])
def test_another_mesh(run, axes):
    restored, _ = restore(run, **axes)
    assert_equal(restored, state(3, **axes))


def test_the_state_may_change_while_it_is_written(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    written = state(5, **SHARDED)
    checkpoints.save(written, record(5))
    jax.tree.map(lambda x: x.delete(), written)
    checkpoints.close()
    assert_equal(restore(tmp_path)[0], state(5, **SHARDED))


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
    restored, found = restore(run)
    assert found == record(2)
    assert_equal(restored, state(2, **SHARDED))
    assert (run / "quarantine-3").is_dir() and not (run / "checkpoints" / "3").exists()
    assert any("checkpoint 3 cannot be read" in message for message in caplog.messages)
    assert restored_step(run) == 2  # and so it stays


def test_damage_anywhere_is_never_silent(two_steps, tmp_path):
    """Whatever file is damaged, the newest checkpoint comes back whole or the one before it does."""
    outcomes = collections.Counter()
    for number, original in enumerate(files(two_steps, 3)):
        for place in (40, original.stat().st_size // 2):
            run = pathlib.Path(shutil.copytree(two_steps, tmp_path / f"{number}{place}"))
            flip(run / original.relative_to(two_steps), place)
            restored, found = restore(run)
            step = found.position.step
            assert_equal(restored, state(step, **SHARDED))
            assert found == record(step)
            outcomes[step] += 1
    assert outcomes[2] >= 6


@pytest.mark.parametrize(("old", "new"), [('"step": 3', '"step": 1'), ("init_timestamp", "xnit_timestamp"), ("{", "[")])
def test_a_damaged_record_is_noticed(run, old, new):
    path = next(path for path in files(run, 3) if old in path.read_bytes().decode(errors="replace") and path.parent.name == "3")
    path.write_text(path.read_text().replace(old, new, 1))
    assert restore(run)[1] == record(2)


def test_none_can_be_read(run):
    for step in (2, 3):
        flip(files(run, step)[0], 1000)
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read.*quarantine-2, quarantine-3"):
        restore(run)
    with pytest.raises(CheckpointError, match="delete them to start the run again"):  # not begun anew behind the user's back
        restore(run)


def test_a_missing_file(run):
    files(run, 3)[0].unlink()
    assert restored_step(run) == 2


def test_too_little_disk(run, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(checkpoints_module.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    with pytest.raises(CheckpointError, match="MiB are free; the last checkpoint is untouched"):
        checkpoints.save(state(4, **SHARDED), record(4))
    checkpoints.close()
    monkeypatch.undo()
    assert restored_step(run) == 3


def untouched(run: pathlib.Path) -> bool:
    return not list(run.glob("quarantine-*")) and (run / "checkpoints" / "2").is_dir() and (run / "checkpoints" / "3").is_dir()


def test_a_folder_renamed_to_another_step_is_noticed(run):
    (run / "checkpoints" / "3").rename(run / "checkpoints" / "7")
    with pytest.raises(CheckpointError, match=r"checkpoints/7 holds the state after step 3: the folder was renamed"):
        restore(run)
    assert not list(run.glob("quarantine-*"))


def test_arrays_of_another_model_stop_the_start_and_move_nothing(run):
    def other(record):
        tree = template(**SHARDED)(record)
        moved = tree["trainable"].pop("embedding")
        tree["trainable"]["table"] = jax.ShapeDtypeStruct((256, 32), moved.dtype, sharding=moved.sharding)
        return tree

    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    with pytest.raises(
        CheckpointError, match=r"'embedding'\] is float32\[256,64\], wanted none; .*'table'\] is missing, wanted float32\[256,32\]"
    ):
        checkpoints.restore(other)
    checkpoints.close()
    assert untouched(run)


def unreadable(monkeypatch, error: OSError, times: int) -> list[float]:
    """Orbax fails and the file system gives `error` so many times; returns the pauses between attempts."""
    load, problems, pauses = reading.ocp.load_checkpointables, [error] * times, []

    def fails(*arguments, **options):
        if problems:
            raise ValueError("a read failed")
        return load(*arguments, **options)

    monkeypatch.setattr(reading.ocp, "load_checkpointables", fails)
    monkeypatch.setattr(reading, "file_problem", lambda folder: problems.pop() if problems else None)
    monkeypatch.setattr(reading.time, "sleep", pauses.append)
    return pauses


def test_a_read_error_is_tried_again(run, monkeypatch):
    pauses = unreadable(monkeypatch, OSError(errno.EIO, "Input/output error"), times=2)
    assert restored_step(run) == 3 and untouched(run)
    assert len(pauses) == 2 and pauses[1] == 2 * pauses[0]


def test_a_file_system_that_goes_on_failing_moves_nothing(run, monkeypatch):
    unreadable(monkeypatch, OSError(errno.EIO, "Input/output error"), times=99)
    with pytest.raises(CheckpointError, match=r"checkpoints/3 cannot be read \(\[Errno 5\] Input/output error\): nothing was moved"):
        restore(run)
    assert untouched(run)


def test_a_permission_stops_at_once_and_moves_nothing(run, monkeypatch):
    pauses = unreadable(monkeypatch, PermissionError(errno.EACCES, "Permission denied"), times=99)
    with pytest.raises(CheckpointError, match=r"Permission denied.*nothing was moved"):
        restore(run)
    assert untouched(run) and not pauses


def test_checkpoints_that_are_gone_are_not_begun_anew(run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(
        CheckpointError, match=r"holds no checkpoint, but that of step 3 was written there: is the folder missing or not mounted"
    ):
        restore(run)


def test_a_checkpoint_of_another_version_stops_the_start(run, monkeypatch):
    """Its record is whole, but says other things than are read today."""

    def other(values):
        raise KeyError("failures")

    monkeypatch.setattr(CheckpointRecord, "from_json", other)
    with pytest.raises(CheckpointError, match=r"checkpoints/3 was saved by another version of neo_jax \(KeyError: 'failures'\)"):
        restore(run)
    assert untouched(run)


@pytest.mark.parametrize("name", ["a[b", "a]b", "a*b", "a?b", "a{b}c", "a b", "a%20b", "a#b", "a:b"])
def test_folders_whose_names_look_like_patterns(name, tmp_path) -> None:
    """Those that do not work, [...] and backslash, are refused by the configuration: neo_jax.config.sections.Run."""
    for _ in range(2):  # the second time it is opened with what the first left
        checkpoints = Checkpoints(tmp_path / name / "checkpoints", keep=2)
        restored = checkpoints.restore(template())
        step = restored[1].position.step + 1 if restored else 1
        checkpoints.save(state(step), record(step))
        checkpoints.wait()
        checkpoints.close()
    assert step == 2


def test_a_disk_that_fills_up_in_a_write_ends_in_one_sentence(tmp_path):
    """The error comes when the write is waited for; closing then waits for nothing, for other processes may hang in the same write."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.save(state(1), record(1))
    checkpoints.wait()

    class Response:
        def result(self):
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write 71614 bytes: No space left on device [os_error_code='28']")

    class Hangs:
        def close(self):
            raise AssertionError("it would wait for the others")

    checkpoints._pending, checkpoints._checkpointer = (2, Response()), Hangs()
    with pytest.raises(CheckpointError, match="the checkpoint of step 2 cannot be written: No space left on device"):
        checkpoints.wait()
    checkpoints.close()
