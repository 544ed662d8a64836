"""Sweeps as JobSets, with a stand-in for kubectl that really runs the containers' commands here (kubectl_stand_in.py). No cluster was tried."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from launch import jobset_run, kubernetes, sweep
from launch.targets import jobset
from neo_jax.exit_codes import CONFIGURATION, DONE, FAILED, NOT_FINITE, PREEMPTED, TRY_AGAIN
from neo_jax.sweeps.folder import SweepFolder
from tests.launch.kubectl_stand_in import calls, end_all, install, manifests
from tests.launch.schema import problems

ROOT = pathlib.Path(__file__).parents[2]
SCHEMA = json.loads((pathlib.Path(__file__).parent / "schemas" / "jobset.json").read_text())
FLAGS = ("--target=jobset", "--hardware=h200:1x8", "--image=registry/neo:1", "--volume=neo-data")
FILE = '''"""Which rate is best?"""
from neo_jax.sweeps.choices import grid
from neo_jax.sweeps.rules import Threshold
CONFIG = "{root}/configs/demo.py:smoke"
COMMAND = "fake_trainer"
{rule}
def sweep():
    return grid({settings})
'''
LONG = '{"run.seed": (0, 1), "phases.text.steps": (150,)}'
# The launcher as a process of its own, with the test's folder in place of /data.
LAUNCHER = """
import sys
from launch import kubernetes, sweep
from launch.targets import jobset
jobset.MOUNT, kubernetes.POLL_SECONDS = sys.argv[1], 0.1
sys.exit(sweep.main(sys.argv[2:]))
"""


@pytest.fixture
def cluster(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """The folder of the stand-in. The sweep and its runs are beside it, in the volume."""
    folder = install(tmp_path / "cluster")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{pathlib.Path(__file__).parent}")
    monkeypatch.setattr(kubernetes, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(jobset, "MOUNT", str(tmp_path))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield folder
    end_all(folder)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def write(folder: pathlib.Path, settings: str = '{"run.seed": (0, 1)}', rule: str = "") -> None:
    (folder / "rates.py").write_text(FILE.format(root=ROOT, settings=settings, rule=rule))


def arguments(folder: pathlib.Path, action: str, *more: str) -> list[str]:
    return [action, str(folder / "rates.py"), f"--folder={folder / 'sweeps'}", *more]


def call(folder: pathlib.Path, action: str, *more: str) -> int:
    return sweep.main(arguments(folder, action, *more))


def run(folder: pathlib.Path, *more: str) -> int:
    return call(folder, "run", *FLAGS, *more)


def launch(folder: pathlib.Path, runs: int = 2) -> subprocess.Popen:
    """Starts the launcher as a process, and waits until so many runs have begun."""
    command = [sys.executable, "-c", LAUNCHER, str(folder), *arguments(folder, "run", *FLAGS, f"--parallel={runs}")]
    launcher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(folder.glob("sweeps/rates/runs/*/metrics.jsonl"))) == runs)
    return launcher


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def starts(folder: pathlib.Path) -> int:
    return len((folder / "sweeps/rates/starts.txt").read_text().splitlines())


def logs(folder: pathlib.Path) -> str:
    return "".join(path.read_text() for path in (folder / "sweeps/rates/logs").glob("*.log"))


def test_runs_finish_as_jobsets(cluster: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cluster.parent
    write(folder)
    assert run(folder, "--parallel=2") == DONE
    assert "2 finished" in capsys.readouterr().out
    assert manifests(cluster) == {} and starts(folder) == 2  # each is deleted when it has ended
    assert run(folder) == DONE  # nothing is left to do
    assert calls(cluster, "apply") == 2


def test_manifests(cluster: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cluster.parent
    write(folder)
    for hardware in ("2*v5p:2x2x4", "h200:4x8"):
        assert run(folder, "--dry-run", f"--hardware={hardware}", "--grace-seconds=45") == DONE
        lines = capsys.readouterr().out.splitlines()
        assert [" new " in line for line in lines[:3]] == [True, True, False]
        value = yaml.safe_load("\n".join(lines[2:]))
        assert problems(value, SCHEMA) == []
        name = value["metadata"]["name"]
        assert name == f"sweep-{lines[0].split()[1]}"
        assert value["metadata"]["labels"] == {"neo-jax/sweep": "rates"}
        assert value["metadata"]["annotations"]["neo-jax/folder"] == f"{folder}/sweeps/rates"
        pod = value["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["command"] == ["python", "-m", "fake_trainer"] and pod["terminationGracePeriodSeconds"] == 45
        assert container["args"][:2] == ["--start-seconds=600", f"--config={folder}/sweeps/rates/configurations/{lines[0].split()[1]}.json"]
        assert (f"--coordinator={name}-slice-0-0.{name}:8482" in container["args"]) == hardware.startswith("h200")
        variables = {each["name"]: each.get("value") for each in container["env"]}
        assert variables["JAX_COMPILATION_CACHE_DIR"] == f"{folder}/sweeps/rates/compilation_cache"
        assert ("LIBTPU_INIT_ARGS" in variables) == hardware.startswith("2*")
    assert not (folder / "sweeps").exists() and not (cluster / "calls.txt").exists()


def test_a_failed_run_is_kept_and_launched_again(cluster: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cluster.parent
    write(folder, '{"run.seed": (0, 99)}')
    assert run(folder, "--parallel=2") == FAILED
    assert f"exit code {NOT_FINITE} (a loss or a gradient is not finite)" in capsys.readouterr().out
    assert "this seed fails" in logs(folder) and starts(folder) == 2  # final: not started again by the controller
    (folder / "sweeps/rates/mended").touch()
    assert call(folder, "retry") == DONE
    assert run(folder) == DONE


def test_a_killed_launcher_is_replaced_while_its_pods_go_on(cluster: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cluster.parent
    write(folder, LONG)
    launcher = launch(folder)
    launcher.kill()
    launcher.wait()
    assert call(folder, "run") == CONFIGURATION  # on this machine
    assert call(folder, "stop") == CONFIGURATION  # without --target=jobset
    assert capsys.readouterr().err.count("runs were left on Kubernetes (sweep-") == 2
    assert run(folder, "--parallel=2") == DONE
    assert capsys.readouterr().err.count("is there already, from an earlier launcher: it goes on") == 2
    assert calls(cluster, "apply") == 2 and starts(folder) == 2  # nothing was started a second time
    assert call(folder, "stop", "--target=jobset") == DONE
    assert "nothing runs the sweep" in capsys.readouterr().out


def test_stop_ends_the_launcher_and_its_jobsets(cluster: pathlib.Path) -> None:
    folder = cluster.parent
    write(folder, LONG)
    launcher = launch(folder)
    assert call(folder, "stop") == DONE
    assert launcher.wait(10) == PREEMPTED
    assert manifests(cluster) == {}
    gone = [path.read_text().split() for path in cluster.glob("gone-*/attempts")]
    assert gone == [[str(PREEMPTED)]] * 2  # they have saved
    assert run(folder, "--parallel=2") == DONE  # from where they were
    for path in folder.glob("sweeps/rates/runs/*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 150


def test_stop_ends_what_a_killed_launcher_has_left(cluster: pathlib.Path) -> None:
    folder = cluster.parent
    write(folder, LONG)
    launcher = launch(folder)
    launcher.kill()
    launcher.wait()
    assert call(folder, "stop", "--target=jobset") == DONE
    assert manifests(cluster) == {}
    swept = SweepFolder(folder / "sweeps/rates")
    assert {state.status for state in swept.states().values()} == {"waiting"} and swept.left() == []


def in_background(folder: pathlib.Path, *more: str) -> tuple[threading.Thread, list[int]]:
    """Runs a sweep in a thread, where signals have no handlers."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run(folder, *more)))
    thread.start()
    return thread, codes


@pytest.fixture
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.driver.on_signals", lambda stop: None)


def test_a_jobset_that_someone_deletes(cluster: pathlib.Path, no_signals: None, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cluster.parent
    write(folder, '{"run.seed": (0,), "phases.text.steps": (150,)}')
    thread, codes = in_background(folder)
    wait_for(lambda: list(folder.glob("sweeps/rates/runs/*/metrics.jsonl")))
    subprocess.run(["kubectl", "delete", "jobset", *manifests(cluster)], check=True)
    thread.join(30)
    assert codes == [FAILED]
    assert "was deleted, not by this launcher" in capsys.readouterr().err and "was deleted" in logs(folder)
    assert calls(cluster, "apply") == 1


def test_a_cluster_that_is_silent_for_a_while(cluster: pathlib.Path, no_signals: None, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cluster.parent
    write(folder, '{"run.seed": (0, 1), "phases.text.steps": (60,)}')
    thread, codes = in_background(folder, "--parallel=2")
    wait_for(lambda: len(list(folder.glob("sweeps/rates/runs/*/metrics.jsonl"))) == 2)
    (cluster / "broken").write_text("Unable to connect to the server: i/o timeout")
    silent = calls(cluster, "get")
    wait_for(lambda: calls(cluster, "get") > silent + 5)
    (cluster / "broken").unlink()
    thread.join(30)
    assert codes == [DONE]
    said = capsys.readouterr().err
    assert said.count("Unable to connect to the server: i/o timeout; asking again until it answers") == 1
    assert said.count("kubectl answers again") == 1


def test_a_killed_process_is_started_again_by_the_controller(cluster: pathlib.Path, no_signals: None) -> None:
    folder = cluster.parent
    write(folder, '{"run.seed": (0,), "phases.text.steps": (60,)}')
    thread, codes = in_background(folder)
    wait_for(lambda: list(folder.glob("sweeps/rates/runs/*/metrics.jsonl")))
    (place,) = (cluster / "objects").iterdir()
    keeper = (place / "pod").read_text()
    (child,) = pathlib.Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    thread.join(30)
    assert codes == [DONE] and starts(folder) == 2 and calls(cluster, "apply") == 1
    (attempts,) = cluster.glob("gone-*/attempts")
    assert attempts.read_text().split() == ["137", "0"]


def test_a_rule_ends_runs(cluster: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(cluster.parent, '{"phases.*.learning_rate": (0.1, 0.4), "phases.text.steps": (100,)}', "RULE = Threshold(step=5, above=0.5)")
    assert run(cluster.parent, "--parallel=2") == DONE
    assert "1 finished, 1 stopped" in capsys.readouterr().out and manifests(cluster) == {}


def test_a_jobset_that_the_cluster_refuses(cluster: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(cluster.parent, '{"run.seed": (0,)}')
    (cluster / "refuse").write_text("Error from server (Forbidden): exceeded \x1b[2Jquota")
    assert run(cluster.parent) == FAILED
    assert (
        "cannot be made: kubectl apply failed with exit code 1: Error from server (Forbidden): exceeded \\x1b[2Jquota"
        in capsys.readouterr().err
    )
    assert calls(cluster, "apply") == jobset_run.APPLIES


def test_a_jobset_of_another_sweep_is_left_alone(cluster: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run has the same name in all sweeps that have it."""
    folder = cluster.parent
    write(folder, '{"run.seed": (0,), "phases.text.steps": (150,)}')
    launcher = launch(folder, 1)
    launcher.kill()
    launcher.wait()
    (folder / "other").mkdir()
    assert sweep.main(["run", str(folder / "rates.py"), f"--folder={folder}/other", *FLAGS]) == FAILED
    assert "is there, of another sweep or none" in capsys.readouterr().err
    assert len(manifests(cluster)) == 1


def test_restarts_that_are_used_up_are_a_failure(cluster: pathlib.Path) -> None:
    """A run that ended with 77 would be launched again at once, for ever."""
    pods = [
        {"metadata": {"name": name, "labels": {}}, "status": {"containerStatuses": [{"name": "train", "state": state}]}}
        for name, state in {"a": {"terminated": {"exitCode": PREEMPTED}}, "b": {"running": {}}}.items()
    ]
    failed = {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    assert kubernetes.exit_code(failed, pods) == (FAILED, "a")
    pods[1]["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": NOT_FINITE}}
    assert kubernetes.exit_code(failed, pods) == (NOT_FINITE, "b")
    assert kubernetes.exit_code(failed, []) == (FAILED, "")
    assert kubernetes.exit_code({"status": {"conditions": [{"type": "Failed", "status": "False"}]}}, pods) is None


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--hardware=v9:1x1",), "--hardware="),
        (("--folder=runs/sweeps",), "--folder=runs/sweeps: must lie under"),
        (("--processes=2",), "--processes: is a flag of --target=local, not of jobset: leave it out"),
        (("--devices=2",), "--devices: is a flag of --target=local and slurm, not of jobset: leave it out"),
        (("--sbatch=a=b",), "--sbatch: is a flag of --target=slurm, not of jobset: leave it out"),
        (("--target=local",), "--volume: is a flag of --target=jobset, not of local: leave it out"),
    ],
)
def test_command_lines_that_cannot_be_used(cluster: pathlib.Path, capsys, flags: tuple[str, ...], sentence: str) -> None:
    write(cluster.parent)
    assert run(cluster.parent, *flags) == CONFIGURATION
    assert sentence in capsys.readouterr().err
    assert not (cluster / "calls.txt").exists()


def test_all_that_is_missing_is_said_together(cluster: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(cluster.parent)
    assert call(cluster.parent, "run", "--target=jobset", "--dry-run") == CONFIGURATION
    error = capsys.readouterr().err
    assert "--image is missing: jobset needs it, such as --image=REGISTRY/neo_jax:tpu" in error
    assert "--hardware is missing" in error and "--volume is missing" in error


def test_machines_that_cannot_be_used(cluster: pathlib.Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cluster.parent
    write(folder)
    (cluster / "broken").write_text('the server doesn\'t have a resource type "jobsets"')
    assert run(folder) == TRY_AGAIN
    assert "kubectl get failed with exit code 1: the server doesn't have a resource type" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(folder))
    assert run(folder) == CONFIGURATION
    assert "kubectl: no such program here" in capsys.readouterr().err
    monkeypatch.setattr(jobset, "MOUNT", f"{folder}/absent")
    assert run(folder, f"--folder={folder}/absent/sweeps") == CONFIGURATION
    assert f"{folder}/absent: no such folder here: start the launcher where the volume is mounted" in capsys.readouterr().err
    assert not (folder / "sweeps").exists()
