"""One run in several processes: the same numbers as in one, resumed on other meshes and counts, and ended together."""

import fcntl
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.neo_jax.training.running import (
    ROOT,
    TIMEOUT,
    answers,
    environment_of_runs,
    metrics,
    run,
    start,
    wait_for,
    wait_for_step,
    write_config,
)
from tests.neo_jax.training.tiny_run import tiny_config_dict

pytestmark = pytest.mark.xdist_group("processes")  # one worker: the runs below are made once

STEPS = {"text": 2, "mid": 4}


def config(corpus: pathlib.Path, directory: pathlib.Path, mesh: dict[str, int] | None = None, **overrides) -> pathlib.Path:
    """Two phases of few steps: text on data x fsdp 2, then everything on the mesh given, where the state moves to.

    One held-out family: each answers in shapes of its own, which every process compiles.
    """
    text = {"data": -1, "fsdp": 2, "context": 1, "tensor": 1}
    values = {f"phases__{name}__rows_per_step": 8 for name in STEPS} | {f"phases__{name}__steps": steps for name, steps in STEPS.items()}
    values |= {"curriculum": tuple(STEPS), "phases__text__mesh": text, "phases__mid__mesh": text | (mesh or {"fsdp": 4})}
    values |= {
        "data__heldout": {"text": tiny_config_dict(corpus, directory).data.heldout.text.to_dict()},
        "run__keep_checkpoints": 9,
        "run__heldout_rows": 8,
        "run__heldout_every": 0,
        "evaluation__questions": 1,
        "evaluation__interim_questions": 1,
    }
    return write_config(corpus, directory, **(values | overrides))


def places(processes: int, devices: int) -> list[list[str]]:
    """Flags for each process of a group."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = [f"--processes={processes}", f"--coordinator=127.0.0.1:{port}", f"--cpu-devices={devices}"]
    return [[*common, f"--process={number}"] for number in range(processes)]


def run_group(files: list[pathlib.Path], devices: int, roots: list[pathlib.Path] | None = None, **options) -> list[tuple[int, str]]:
    """Exit code and output of each process of a group, one a configuration file."""
    roots = roots or [ROOT] * len(files)
    group = [start(file, *place, root=root, **options) for file, place, root in zip(files, places(len(files), devices), roots, strict=True)]
    outputs = [process.communicate(timeout=TIMEOUT) for process in group]
    return [(process.returncode, out + errors) for process, (out, errors) in zip(group, outputs, strict=True)]


def launch(file: pathlib.Path, processes: int, devices: int) -> subprocess.Popen:
    """launch/local.py with a group."""
    command = [sys.executable, str(ROOT / "launch" / "local.py"), f"--processes={processes}", f"--devices={devices}", "--"]
    return subprocess.Popen(
        [*command, sys.executable, "-m", "neo_jax.train", f"--config={file}"],
        env=environment_of_runs(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_same(ours: list[dict], expected: list[dict]) -> None:
    """Equal rows in an equal order, and losses to 1e-5."""
    assert [line["step"] for line in ours] == [line["step"] for line in expected]
    for mine, theirs in zip(ours, expected, strict=True):
        for key in ("tokens", "fill", "phase"):
            assert mine[key] == theirs[key], (mine["step"], key)
        assert mine["source_loss"].keys() == theirs["source_loss"].keys()
        for key in ("loss", "weight", "source_loss", "heldout_loss"):
            if theirs[key] is not None:
                numbers = [list(line[key].values()) if isinstance(line[key], dict) else line[key] for line in (mine, theirs)]
                np.testing.assert_allclose(*numbers, rtol=1e-5, err_msg=f"{key} of step {mine['step']}")


@pytest.fixture(scope="module")
def one(corpus: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of one process with eight devices."""
    directory = tmp_path_factory.mktemp("one") / "run"
    code, output = run(config(corpus, directory), "--processes=1", "--cpu-devices=8")
    assert code == 0, output
    return directory


@pytest.fixture(scope="module")
def four(corpus: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The same run of four processes with two devices each, started as a user does. One is killed: all end, and are started again."""
    directory = tmp_path_factory.mktemp("four") / "run"
    launcher = launch(config(corpus, directory), 4, 2)
    wait_for(launcher, (directory / "checkpoints" / "2").exists)  # the next phase is not compiled yet
    os.kill(member(launcher.pid, "--process=2"), signal.SIGKILL)
    output, errors = launcher.communicate(timeout=TIMEOUT)
    assert launcher.returncode == 0, output + errors
    assert "local: the run ended with exit code 137; starting it again from step 2" in errors
    assert "report.html" in output
    return directory


def member(launcher: int, flag: str) -> int:
    """The process of a launcher with a flag on its command line."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if parent == launcher and flag in command:
            return int(path.name)
    raise AssertionError(f"no process with {flag}")


@pytest.mark.nightly
def test_four_processes_give_the_numbers_of_one(one, four):
    assert_same(metrics(four), metrics(one))
    assert answers(four) == answers(one)
    assert [path.name for path in four.glob("skipped_heldout.*")] == [path.name for path in one.glob("skipped_heldout.*")]


@pytest.mark.nightly
def test_a_run_resumes_on_other_meshes_and_counts(corpus, four, tmp_path):
    """Saved by four processes on eight devices, resumed by one on four, then on two."""
    directory = tmp_path / "run"
    shutil.copytree(four, directory)
    for resumed, devices, fsdp in ((2, 4, 2), (4, 2, 1)):
        for path in (*(directory / "checkpoints").iterdir(), *(directory / "evaluations").glob("01-*")):
            if not path.name.isdigit():
                path.unlink(missing_ok=True) if path.is_file() else None
            elif int(path.name) > resumed:
                shutil.rmtree(path)
        mesh = {"data": -1, "fsdp": fsdp}
        file = config(corpus, directory, mesh)
        code, output = run(file, "--processes=1", f"--cpu-devices={devices}")
        assert code == 0, output
        assert f"resumed after step {resumed}" in output
        assert_same(metrics(directory), metrics(four))


def test_one_sigterm_saves_and_ends_all_with_77(corpus, tmp_path):
    """Then part of that checkpoint is damaged, which one process reads: all go on from the one before it."""
    directory = tmp_path / "run"
    file = config(corpus, directory, run__checkpoint_every=1, phases__text__steps=300, run__profile_steps=(1, 1))

    def until(step: int, stopped: int) -> tuple[int, list[str]]:
        """Runs two processes to this step and stops one; returns the step after which all have ended, and what each said."""
        group = [start(file, *place) for place in places(2, 4)]
        wait_for_step(group[0], directory, step)
        group[stopped].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in group]
        assert [process.returncode for process in group] == [77, 77], errors
        last = metrics(directory)[-1]["step"]
        assert all(f"stopped by a signal after step {last}" in error for error in errors)
        return last, errors

    last, _ = until(2, stopped=1)
    traces = {path.relative_to(directory / "profile").parts[0] for path in directory.rglob("*.xplane.pb")}
    assert traces == {"00000001.0", "00000001.1"}, "each process traces its own devices"
    before = metrics(directory)
    newest = directory / "checkpoints" / str(last)
    arrays = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 0x10
    arrays.write_bytes(content)
    _, errors = until(last + 1, stopped=0)
    assert f"resumed after step {last - 1}" in errors[0]
    assert (directory / f"quarantine-{last}").is_dir()
    assert_same(metrics(directory)[:last], before)


WAITS = """
import pathlib, sys, time
import jax
from data_pipelines.schema import Interrupted
from neo_jax.train import main
from neo_jax.training import phase_evaluation, trainer
begun = pathlib.Path(sys.argv.pop())
def index(settings, process, stop):
    begun.touch()
    while not stop():
        time.sleep(0.01)
    raise Interrupted("indexing was stopped")
def read(*arguments):
    begun.touch()
    while True:
        arguments[-1]()
        time.sleep(0.01)
if begun.name == "indexing":
    trainer.open_run_data = index
else:
    phase_evaluation.read_questions = read
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("doing", "sentence"),
    [
        ("indexing", "before the first step: indexing was stopped"),
        pytest.param("answering", "stopped while answering held-out questions", marks=pytest.mark.nightly),
    ],
)
def test_a_sigterm_of_any_process_ends_all_outside_of_steps_too(corpus, tmp_path, doing, sentence):
    """While process 0 indexes and the others wait for it, and while all answer questions; process 1 alone gets the signal."""
    file = config(corpus, tmp_path / "run")
    group = [start(file, *place, str(tmp_path / doing), program=("-c", WAITS)) for place in places(2, 4)]
    wait_for(group[0], (tmp_path / doing).exists)
    group[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=TIMEOUT)[1] for process in group]
    assert [process.returncode for process in group] == [77, 77], errors
    assert all(sentence in error for error in errors), errors
    assert not (tmp_path / "run" / "evaluations").exists()


def test_another_configuration_in_one_process_is_named(corpus, tmp_path):
    files = [config(corpus, tmp_path / "a"), config(corpus, tmp_path / "b", run__directory=str(tmp_path / "a"), run__seed=5)]
    results = run_group(files, 1)
    for code, output in results:
        assert code == 78 and "Traceback" not in output
        assert "process 1 on " in output and "configuration (run.seed: 0 -> 5)" in output
    assert not (tmp_path / "a").exists()


def test_other_code_in_one_process_is_named(corpus, tmp_path):
    for package in ("neo_jax", "data_pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "neo_jax" / "phase.py").open("a") as file:
        file.write("# changed on one machine\n")
    results = run_group([config(corpus, tmp_path / "run")] * 2, 1, roots=[ROOT, tmp_path])
    assert [code for code, _ in results] == [78, 78]
    assert all("source files (neo_jax/phase.py)" in output for _, output in results)


def test_a_missing_process_is_named(corpus, tmp_path):
    file = config(corpus, tmp_path / "run")
    process = start(file, *places(3, 1)[0], "--start-seconds=1")
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75 and "Traceback" not in errors
    assert "processes 1, 2 of 3 did not reach process 0" in errors


def test_what_one_process_cannot_do_ends_all(corpus, tmp_path):
    """Process 0 finds the directory in use; the other, which waits for it, hears why and ends with the same code."""
    directory = tmp_path / "run"
    directory.mkdir()
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = run_group([config(corpus, directory)] * 2, 4)
    assert [code for code, _ in results] == [78, 78], results
    assert all("in use by another process" in output for _, output in results)


FAILS_IN_ONE = """
import sys
import jax
from data_pipelines.schema import DataError
from neo_jax.train import main
from neo_jax.training import inputs
place_rows = inputs.to_devices
def fail(*arguments, **options):
    if jax.process_index() == 1:
        raise DataError("a disk of one machine is gone")
    return place_rows(*arguments, **options)
inputs.to_devices = fail
sys.exit(main(sys.argv[1:]))
"""


def test_an_error_of_one_ends_all_where_they_wait_for_it(corpus, tmp_path):
    """Process 1 cannot read its rows; process 0 waits for it inside a step."""
    results = run_group([config(corpus, tmp_path / "run")] * 2, 4, program=("-c", FAILS_IN_ONE))
    assert [code for code, _ in results] == [65, 65], results
    assert all("a disk of one machine is gone" in output for _, output in results)


def test_a_mesh_that_does_not_fit_is_refused_by_all(corpus, tmp_path):
    results = run_group([config(corpus, tmp_path / "run", {"data": 4, "fsdp": 1})] * 2, 1)
    assert [code for code, _ in results] == [78, 78]
    assert all("phases.mid.mesh: data 4 x" in output and "Traceback" not in output for _, output in results)
    assert not (tmp_path / "run").exists()
