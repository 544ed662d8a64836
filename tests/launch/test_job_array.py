"""Sweeps as SLURM job arrays, with a recorded stand-in for sbatch, squeue and scancel (slurm_stand_in.py). tests/slurm has the real ones."""

import json
import os
import pathlib
import re

import pytest

from launch import array_task, job_array, sweep
from neo_jax.exit_codes import CONFIGURATION, DONE, FAILED, PREEMPTED, TRY_AGAIN
from neo_jax.sweeps.folder import SweepFolder
from tests.launch.slurm_stand_in import calls, held, hold, install

ROOT = pathlib.Path(__file__).parents[2]
FILE = '''"""Which rate is best?"""
from neo_jax.sweeps.choices import grid
from neo_jax.sweeps.rules import Threshold
CONFIG = "{root}/configs/demo.py:smoke"
COMMAND = "fake_trainer"
RECORDS = "{folder}/records"
{rule}
def sweep():
    return grid({{"run.seed": {seeds}}})
'''


@pytest.fixture
def slurm(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The folder of the stand-in; its tests write a sweep of four runs beside it."""
    folder = install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{pathlib.Path(__file__).parent}")
    monkeypatch.setattr(job_array, "POLL_SECONDS", 0.05)
    write(tmp_path)
    return folder


@pytest.fixture
def folder(slurm: pathlib.Path) -> pathlib.Path:
    return slurm.parent


def write(folder: pathlib.Path, seeds: str = "range(4)", rule: str = "") -> None:
    (folder / "rates.py").write_text(FILE.format(root=ROOT, folder=folder, seeds=seeds, rule=rule))


def call(folder: pathlib.Path, action: str, *more: str) -> int:
    return sweep.main([action, str(folder / "rates.py"), f"--folder={folder / 'sweeps'}", *more])


def submit(folder: pathlib.Path, *more: str) -> int:
    return call(folder, "run", "--target=slurm", *more)


def events(folder: pathlib.Path, index: int | None = None) -> list[tuple]:
    lines = map(json.loads, (folder / "sweeps/rates/events.jsonl").read_text().splitlines())
    return [(each["event"], each.get("task"), each.get("code")) for each in lines if index in (None, each["index"])]


def statuses(folder: pathlib.Path) -> list[str]:
    swept = SweepFolder(folder / "sweeps/rates")
    states = swept.states()
    return [states[run.name].status for run in swept.listed()]


def record(folder: pathlib.Path, index: int, event: str, **more) -> None:
    swept = SweepFolder(folder / "sweeps/rates")
    swept.record(swept.listed()[index], event, **more)


def indices(slurm: pathlib.Path) -> list[str]:
    """Returns the option --array of each batch script."""
    return [re.search(r"#SBATCH --array=(\S+)", each["text"])[1] for each in calls(slurm, "sbatch")]


def run_task(folder: pathlib.Path, index: int, monkeypatch: pytest.MonkeyPatch, job: str = "101", **more: str) -> int:
    """Runs the task of a run as its batch script does, in this process."""
    variables = {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_PROCID": "0"} | more
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return array_task.main([f"--folder={folder / 'sweeps/rates'}", "--module=fake_trainer", f"--index={index}"])


def test_one_array_over_what_waits(slurm: pathlib.Path, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(folder, "--parallel=2", "--devices=2", "--hardware=h200:2x8", "--sbatch=partition=gpu,account=mine") == DONE
    (called,) = calls(slurm, "sbatch")
    assert called["arguments"] == ["--parsable"]
    lines = called["text"].splitlines()
    directives = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    logs = folder / "sweeps/rates/logs"
    assert {"array=0-3%2", "job-name=sweep-rates", "requeue", "signal=TERM@120", f"output={logs}/job-%A_%a.log"} <= set(directives)
    assert {"nodes=2", "gpus-per-node=8"} <= set(directives) and any(line.startswith("export ") for line in lines)
    assert directives[-2:] == ["partition=gpu", "account=mine"] and "exclusive" not in directives and logs.is_dir()
    (command,) = [line for line in lines if line.startswith("srun")]
    assert f"-m launch.array_task --folder={folder}/sweeps/rates --module=fake_trainer --index=" in command and "--devices=2" in command
    assert events(folder) == [("submitted", f"101_{index}", None) for index in range(4)]
    assert "4 queued" in capsys.readouterr().out
    hold(slurm, {"101_0": "RUNNING", "101_1": "COMPLETING", "101_2": "PENDING", "101_3": "REQUEUED"})
    assert statuses(folder) == ["running", "running", "queued", "queued"]


def test_nothing_is_submitted_twice(slurm: pathlib.Path, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(folder) == submit(folder) == DONE
    assert "no run is left to submit" in capsys.readouterr().err
    record(folder, 2, "started", task="101_2", step=-1)
    record(folder, 2, "interrupted", task="101_2", code=PREEMPTED)  # SLURM still holds it: it is queued again
    assert submit(folder) == DONE
    write(folder, "range(6)")
    assert submit(folder) == DONE
    assert indices(slurm) == ["0-3%1", "4-5%1"]
    assert call(folder, "run") == CONFIGURATION  # on this machine
    assert "6 runs are queued or running on SLURM (101_0, 101_1," in capsys.readouterr().err


def test_what_slurm_lost_is_submitted_again(slurm: pathlib.Path, folder: pathlib.Path) -> None:
    submit(folder)
    for index in (0, 1):
        record(folder, index, "started", task=f"101_{index}", step=-1)
    record(folder, 1, "ended", task="101_1", code=DONE)
    hold(slurm, {"101_2": "PENDING", "101_3": "CANCELLED", "99_0": "RUNNING"})  # 99: of another folder's sweep with the same name
    assert statuses(folder) == ["waiting", "finished", "queued", "waiting"]
    submit(folder, "--parallel=3")
    assert indices(slurm)[1:] == ["0,3%3"]
    assert events(folder, 0)[-2:] == [("lost", "101_0", None), ("submitted", "102_0", None)]
    assert statuses(folder) == ["queued", "finished", "queued", "queued"]


def test_what_slurm_lost_can_run_on_this_machine(slurm: pathlib.Path, folder: pathlib.Path) -> None:
    submit(folder)
    hold(slurm, {})
    assert call(folder, "run", "--parallel=2") == DONE
    assert statuses(folder) == ["finished"] * 4
    hold(slurm, {"101_0": "PENDING"})  # however late it is seen
    assert statuses(folder) == ["finished"] * 4


def test_slurm_does_not_answer(slurm: pathlib.Path, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No answer is not "nothing is held"."""
    submit(folder)
    (slurm / "broken").write_text("Unable to contact slurm controller")
    for action in ("status", "run", "stop"):
        assert call(folder, action) == TRY_AGAIN
        assert "squeue failed with exit code 1: Unable to contact slurm controller" in capsys.readouterr().err
    assert len(calls(slurm, "sbatch")) == 1 and len(events(folder)) == 4


def test_no_slurm_here(folder: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert submit(folder) == CONFIGURATION
    assert "there is no sbatch here" in capsys.readouterr().err
    assert call(folder, "status") == DONE  # nothing was submitted: nobody needs to be asked
    assert "4 waiting" in capsys.readouterr().out


def test_sbatch_refuses(slurm: pathlib.Path, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (slurm / "broken").write_text("invalid partition specified: none")
    assert submit(folder, "--sbatch=partition=none") == CONFIGURATION
    assert "sbatch failed with exit code 1: invalid partition specified: none" in capsys.readouterr().err
    assert not (folder / "sweeps/rates/events.jsonl").exists()


def test_a_task_records_its_run(slurm: pathlib.Path, folder: pathlib.Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "(0, 99)")
    submit(folder)
    assert [run_task(folder, index, monkeypatch) for index in (0, 1)] == [0, 70]
    assert events(folder, 0)[1:] == [("started", "101_0", None), ("ended", "101_0", 0)]
    assert events(folder, 1)[1:] == [("started", "101_1", None), ("ended", "101_1", 70)]
    assert sum("this seed fails" in path.read_text() for path in (folder / "sweeps/rates/logs").iterdir()) == 1
    hold(slurm, {})
    capsys.readouterr()
    assert call(folder, "status") == DONE
    assert "exit code 70 (a loss or a gradient is not finite)" in capsys.readouterr().out
    assert len((folder / "records/rates.jsonl").read_text().splitlines()) == 1  # by status
    assert submit(folder) == FAILED and len(calls(slurm, "sbatch")) == 1
    assert call(folder, "retry") == DONE
    assert submit(folder) == DONE and indices(slurm)[1:] == ["1%1"]


def test_other_processes_of_a_run_record_nothing(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(folder)
    assert run_task(folder, 0, monkeypatch, SLURM_PROCID="1") == DONE
    assert events(folder, 0) == [("submitted", "101_0", None)]


def test_a_task_gives_up_without_progress(folder: pathlib.Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on this machine: three starts that wrote no checkpoint. A trainer that is killed once it has written one begins anew to count."""
    submit(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    steps = folder / "fake_trainer.py"
    directory = SweepFolder(folder / "sweeps/rates").run_directory(SweepFolder(folder / "sweeps/rates").listed()[0].name)
    die = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    for text in (die, die, f"import os; os.makedirs('{directory}/checkpoints/5')\n{die}", die, die):
        steps.write_text(text)
        assert run_task(folder, 0, monkeypatch) == 137
    assert run_task(folder, 0, monkeypatch) == CONFIGURATION  # which the batch script takes for final
    assert "3 attempts in a row wrote no checkpoint (last exit code 137): given up" in capsys.readouterr().err
    assert [code for event, _, code in events(folder, 0) if event in ("interrupted", "ended")] == [137] * 6
    assert statuses(folder)[0] == "failed"


def test_a_task_that_nobody_noted_ends(slurm: pathlib.Path, folder: pathlib.Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher was killed between sbatch and its note: the array that the next one submits does the work."""
    monkeypatch.setattr(array_task, "SUBMITTED_SECONDS", 0.0)
    submit(folder)
    assert run_task(folder, 0, monkeypatch, job="100") == CONFIGURATION
    assert "task 100_0 is not noted there" in capsys.readouterr().err
    assert len(events(folder)) == 4


def test_stop(slurm: pathlib.Path, folder: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    submit(folder)
    hold(slurm, {"101_0": "PENDING", "101_1": "RUNNING", "101_2": "PENDING"})
    record(folder, 3, "ended", task="101_3", code=DONE)
    assert call(folder, "stop") == DONE
    assert "stopped; its runs have saved" in capsys.readouterr().out
    assert [each["arguments"] for each in calls(slurm, "scancel")] == [
        ["--quiet", "--state=PENDING", "101_0", "101_2"],
        ["--quiet", "--signal=TERM", "--state=RUNNING", "101_1"],
    ]
    assert held(slurm) == {}
    assert statuses(folder) == ["waiting", "waiting", "waiting", "finished"]
    # Its batch script would queue it again for 77; and one that had begun when its place in the queue was taken back does not train.
    monkeypatch.setattr("subprocess.call", lambda *_, **__: PREEMPTED)
    assert run_task(folder, 0, monkeypatch) == DONE and events(folder, 0)[-1][0] == "stopping"
    assert submit(folder) == DONE and indices(slurm)[1:] == ["0-2%1"]


def test_a_stopped_task_is_not_queued_again(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(folder)

    def trained(*_, **__) -> int:
        record(folder, 0, "stopping", task="101_0")
        return PREEMPTED

    monkeypatch.setattr("subprocess.call", trained)
    assert run_task(folder, 0, monkeypatch) == DONE
    assert events(folder, 0)[-1] == ("ended", "101_0", PREEMPTED)
    assert statuses(folder)[0] == "waiting"


def test_stop_kills_what_does_not_end(slurm: pathlib.Path, folder: pathlib.Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_array, "END_SECONDS", 0.3)
    submit(folder)
    (slurm / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {slurm}/scancelled\n')  # nothing ends
    hold(slurm, {"101_1": "RUNNING"})
    assert call(folder, "stop", "--grace-seconds=1") == FAILED
    assert "SLURM still holds 101_1, 0 s after it was told to kill them" in capsys.readouterr().err
    assert (slurm / "scancelled").read_text().splitlines() == ["--quiet --signal=TERM --state=RUNNING 101_1", "--quiet 101_1"]


def test_time_of_a_run_is_the_sum_of_its_starts(slurm: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(folder)
    hold(slurm, {})
    moments = iter((100.0, 110.0, 120.0, 130.0, 135.0, 150.0))
    monkeypatch.setattr("time.time", lambda: next(moments))
    record(folder, 0, "started", task="101_0", step=-1)
    record(folder, 0, "interrupted", task="101_0", code=PREEMPTED)
    record(folder, 0, "started", task="101_0", step=2)
    record(folder, 1, "started", task="101_1", step=-1)
    record(folder, 0, "started", task="101_0", step=2)  # its node broke some time after 130
    record(folder, 0, "ended", task="101_0", code=DONE)
    swept = SweepFolder(folder / "sweeps/rates")
    name = swept.listed()[0].name
    assert swept.seconds(swept.states())[name] == 10 + 10 + 15


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--target=pbs",), "--target: is 'pbs', must be one of local, slurm, jobset"),
        (("--target=slurm", "--processes=2", "--devices=1"), "on SLURM, write --sbatch=nodes=2"),
        (("--target=slurm", "--sbatch=array=1-2"), "--sbatch=array=1-2: the sweep sets it itself: leave it out"),
        (("--target=slurm", "--hardware=v5p:2x2x1"), "TPUs have no SLURM"),
        (("--sbatch=partition=gpu",), "--sbatch: is a flag of --target=slurm, not of local: leave it out"),
    ],
)
def test_command_lines_that_cannot_be_used(slurm: pathlib.Path, capsys, arguments: tuple[str, ...], sentence: str) -> None:
    assert call(slurm.parent, "run", *arguments) == CONFIGURATION
    assert sentence in capsys.readouterr().err
    assert not calls(slurm, "sbatch")


def test_dry_run_prints_the_batch_script(slurm: pathlib.Path, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(folder, "--dry-run", "--parallel=2") == DONE
    out = capsys.readouterr().out
    assert out.count(" new ") == 4 and "#SBATCH --array=0-3%2" in out
    assert not (folder / "sweeps").exists() and not calls(slurm, "sbatch")
    submit(folder)
    capsys.readouterr()
    write(folder, "range(6)")
    assert submit(folder, "--dry-run") == DONE
    out = capsys.readouterr().out
    submit(folder)
    assert "#SBATCH --array=4-5%1" in out and out.endswith(calls(slurm, "sbatch")[-1]["text"])  # what is then submitted


def test_rules_need_a_launcher_that_sees_all_runs(slurm: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(slurm.parent, rule="RULE = Threshold(step=5, above=0.5)")
    assert submit(slurm.parent) == CONFIGURATION
    assert "RULE ends runs early" in capsys.readouterr().err
    assert not (slurm.parent / "sweeps").exists()
