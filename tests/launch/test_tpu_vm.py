"""What the hosts of a TPU VM run, run here: it starts again by the exit code, stops and shows its log. gcloud is a stand-in."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from launch import run
from launch.hosts import find_hosts
from launch.targets.tpu_vm import Job, create_line, line, logs_script, start_script, stop_script, submit
from neo_jax.config import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
# Ends with 75 at the first start; then waits for SIGTERM and ends with 77.
TRAINER = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(__file__).parent
count = len(list(folder.glob("start-*")))
(folder / f"start-{count}").write_text(os.environ.get("LIBTPU_INIT_ARGS", ""))
print("start", count, *sys.argv[1:], flush=True)
if count == 0:
    sys.exit(75)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(77))
time.sleep(60)
"""


def job(**changes) -> Job:
    command = (sys.executable, "-m", "neo_jax.train", "--config=configs/demo.py", "--config.run.directory=it's here")
    return Job(**{"command": command, "hosts": find_hosts("v6e:4x4"), "zone": "us-east5-a"} | changes)


def test_start_restart_logs_stop(tmp_path):
    repository = tmp_path / "the repository"
    repository.mkdir()
    for name in ("launch", "neo_jax", "data_pipelines", "configs"):
        (repository / name).symlink_to(ROOT / name)
    (repository / "trainer.py").write_text(TRAINER)
    command = (sys.executable, "trainer.py", "--config=configs/demo.py", f"--config.run.directory={tmp_path}/it's here")
    fake = job(folder=str(repository), command=command, environment={"LIBTPU_INIT_ARGS": "--a=1 --b=2"})

    def on_host(script: str, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60, **options)

    def wait_for(start: str) -> None:
        deadline = time.monotonic() + 60
        while not (repository / start).exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    assert on_host(start_script(fake)).returncode == 0
    try:
        wait_for("start-1")
        assert (repository / "start-1").read_text() == "--a=1 --b=2"
        again = on_host(start_script(fake))
        assert again.returncode == 78 and "it runs already" in again.stderr
    finally:
        assert on_host(stop_script(fake)).returncode == 0
    log = on_host("cat .launch/*.log", cwd=repository)
    assert f"start 0 --config=configs/demo.py --config.run.directory={tmp_path}/it's here" in log.stdout
    assert "ended with exit code 75; starting it again" in log.stdout and "start 1" in log.stdout
    assert len(list(repository.glob("start-*"))) == 2 and not list(repository.glob(".launch/*.pid"))
    assert "nothing was started here" in on_host(stop_script(fake)).stderr


def test_what_gcloud_is_asked(tmp_path, monkeypatch):
    (tmp_path / "gcloud").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/asked\nexit 3\n')
    (tmp_path / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert submit(job(), "start") == 3
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("compute\ntpus\ntpu-vm\nssh\nneo-jax\n--zone=us-east5-a\n--worker=all\n--command=bash -c ")
    # What the shell of a host makes of the words is the script, letter for letter.
    inner = line(job(), "start")[-1].removeprefix("--command=").replace("bash -c", "printf %s", 1)
    assert subprocess.run(["sh", "-c", inner], capture_output=True, text=True, check=True).stdout == start_script(job())
    assert "--worker=0" in line(job(), "logs") and "tail -n 100 -F" in logs_script(job())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="gcloud: no such program here"):
        submit(job(), "stop")


@pytest.mark.parametrize(
    ("hardware", "kind", "version"),
    [
        ("v6e:4x4", "v6e-16", "v2-alpha-tpuv6e"),
        ("v5p:2x2x4", "v5p-32", "v2-alpha-tpuv5"),
        ("v5e:4x8", "v5litepod-32", "v2-alpha-tpuv5-lite"),
    ],
)
def test_create(hardware, kind, version):
    assert f"--accelerator-type={kind} --version={version}" in create_line(job(hosts=find_hosts(hardware)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hosts": find_hosts("tpu7x:2x2x1")}, "has no TPU VMs"),
        ({"hosts": find_hosts("h200:1x8")}, "has no TPU VMs"),
        ({"hosts": find_hosts("2*v6e:4x4")}, "2 slices"),
        ({"name": "a b"}, "--job-name=a b"),
        ({"zone": ""}, "--zone="),
    ],
)
def test_refused(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        line(job(**changes), "start")


def test_dry_run_shows_all_lines(capsys):
    flags = ["--target=tpu_vm", "--hardware=v5e:4x4", "--zone=us-west4-a", "--dry-run"]
    assert run.main([*flags, "--", "python", "-m", "neo_jax.train", "--config=configs/demo.py"]) == 0
    shown = capsys.readouterr().out
    assert (
        "tpu-vm create neo-jax" in shown and "launch/local.py --grace-seconds=300 -- python -m neo_jax.train --start-seconds=600" in shown
    )
    assert run.main([*flags, "--action=stop"]) == 0
    assert "kill -TERM" in capsys.readouterr().out
