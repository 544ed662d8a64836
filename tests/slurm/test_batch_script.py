"""The batch script of launch/targets/slurm.py: signals, kills and errors; losses are as without them.

The run has the first three phases of the demo's smoke configuration, and a small corpus.
"""

import json
import pathlib
import sys

import pytest

from launch.targets.slurm import Job, script
from neo_jax import demo
from neo_jax.exit_codes import CONFIGURATION, DONE, PREEMPTED
from tests.neo_jax.training.tiny_run import SCENES
from tests.slurm.conftest import ROOT, slurm, wait_for

STEPS = 9


@pytest.fixture(scope="module")
def folder(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where the runs of this file share a corpus, in runs/demo; with an undisturbed run, runs/undisturbed."""
    folder = tmp_path_factory.mktemp("slurm")
    demo.prepare(folder / "runs/demo/corpus", SCENES)
    job = submit(folder, "undisturbed")
    wait_for("the undisturbed run ends", lambda: over(job))
    assert exit_code(job) == (DONE, 0), log(folder, job)
    assert len(losses(folder, "undisturbed")) == STEPS
    return folder


def submit(folder: pathlib.Path, name: str, *more: str, options: tuple[str, ...] = ()) -> str:
    """Submits a run with the run directory runs/NAME, with further options of sbatch; returns the number of its job."""
    config = [f"--config={ROOT}/configs/demo.py:smoke", "--config.curriculum=text,pretrain,captions", f"--config.run.directory=runs/{name}"]
    command = [sys.executable, "-m", "neo_jax.train", *config, *more]
    text = script(Job(command=command, folder=str(folder), name=name, exclusive=False, log=f"{folder}/%j.log", options=options))
    return slurm("sbatch", "--parsable", text=text)


def facts(job: str) -> dict[str, str]:
    """Returns what the controller knows of a job."""
    words = slurm("scontrol", "--oneliner", "show", "job", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def over(job: str) -> bool:
    return facts(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL")


def exit_code(job: str) -> tuple[int, int]:
    """Returns the exit code of a job and how often it was queued again."""
    found = facts(job)
    return int(found["ExitCode"].partition(":")[0]), int(found["Restarts"])


def losses(folder: pathlib.Path, name: str) -> dict[int, float]:
    """Returns the losses of a run by step, the last that were written for each."""
    path = folder / "runs" / name / "metrics.jsonl"
    records = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def log(folder: pathlib.Path, job: str) -> str:
    return (folder / f"{job}.log").read_text()


def test_sigterm_saves_and_the_job_is_queued_again(folder: pathlib.Path) -> None:
    job = submit(folder, "terminated")
    wait_for("some steps", lambda: len(losses(folder, "terminated")) >= 4)
    slurm("scancel", "--signal=TERM", job)  # as SLURM does before the time limit: to the processes, not to the batch shell
    wait_for("the run goes on and ends", lambda: over(job))
    assert exit_code(job) == (DONE, 1), log(folder, job)
    assert "exit code 77: queued again" in log(folder, job)
    assert losses(folder, "terminated") == losses(folder, "undisturbed")


def test_a_killed_process_is_started_again(folder: pathlib.Path) -> None:
    job = submit(folder, "killed")
    wait_for("some steps", lambda: len(losses(folder, "killed")) >= 4)
    slurm("scancel", "--signal=KILL", f"{job}.0")  # the step's processes alone
    wait_for("the run goes on and ends", lambda: over(job))
    assert exit_code(job) == (DONE, 1), log(folder, job)
    assert "exit code 137: queued again" in log(folder, job)
    assert losses(folder, "killed") == losses(folder, "undisturbed")


def test_a_bad_key_ends_the_job(folder: pathlib.Path) -> None:
    job = submit(folder, "misspelt", "--config.run.sed=1")
    wait_for("the job ends", lambda: over(job))
    assert exit_code(job) == (CONFIGURATION, 0), log(folder, job)
    assert "did you mean 'seed'?" in log(folder, job)


def test_two_processes_find_each_other(folder: pathlib.Path) -> None:
    """By SLURM's variables; each has half of the rows."""
    mesh = ("--config.curriculum=text", "--config.phases.text.mesh.fsdp=2")
    job = submit(folder, "two", *mesh, options=("ntasks-per-node=2",))
    wait_for("the run ends", lambda: over(job))
    assert exit_code(job) == (DONE, 0), log(folder, job)
    starts = json.loads((folder / "runs/two/run.json").read_text())["starts"]
    assert [each["processes"] for each in starts] == [2]
    alone = losses(folder, "undisturbed")
    assert losses(folder, "two") == pytest.approx({step: alone[step] for step in (1, 2, 3)}, rel=1e-5)


def test_a_cancelled_job_saves_and_does_not_come_back(folder: pathlib.Path) -> None:
    text = script(Job(command=["sh", "-c", f"trap 'exit {PREEMPTED}' TERM; sleep 100 & wait"], exclusive=False, log=f"{folder}/%j.log"))
    job = slurm("sbatch", "--parsable", text=text)
    wait_for("the job runs", lambda: facts(job)["JobState"] == "RUNNING" and slurm("squeue", "--noheader", "--steps", f"--job={job}"))
    slurm("scancel", job)
    wait_for("its processes have ended", lambda: facts(job)["JobState"] in ("CANCELLED", "PENDING"))
    try:
        assert exit_code(job) == (PREEMPTED, 0) and over(job), facts(job)
    finally:
        slurm("scancel", job)
