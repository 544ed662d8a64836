"""The batch script with stand-ins for srun and scontrol: what it does with each exit code."""

import os
import pathlib
import re
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "slurm.sbatch"


def submit(folder: pathlib.Path, code: int, arguments: tuple[str, ...] = ("--config=a.py", "--config.run.seed=1 2"), **variables: str):
    """Runs the script; returns its exit code, srun's arguments and whether the job was queued again."""
    for name, body in (
        ("srun", f'printf "%s\\n" "$@" > {folder}/srun.log\nprintf %s "$NEO_JAX_SECRET" > {folder}/secret\nexit {code}'),
        ("scontrol", f'echo "$@" >> {folder}/scontrol.log'),
    ):
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "12",
        "SLURM_SUBMIT_DIR": str(folder),
        "PYTHON": "py",
    } | variables
    result = subprocess.run(["bash", SCRIPT, *arguments], env=environment, capture_output=True, text=True)
    called, queued = folder / "srun.log", folder / "scontrol.log"
    return (
        result.returncode,
        called.read_text().splitlines() if called.exists() else [],
        queued.read_text() if queued.exists() else "",
    )


def test_syntax():
    assert subprocess.run(["bash", "-n", SCRIPT], capture_output=True).returncode == 0


@pytest.mark.parametrize("code", [0, 65, 70, 78])
def test_final(tmp_path, code):
    assert submit(tmp_path, code)[::2] == (code, "")


@pytest.mark.parametrize("code", [1, 75, 77, 134, 137])
def test_queued_again(tmp_path, code):
    assert submit(tmp_path, code, SLURM_RESTART_COUNT="9")[::2] == (0, "requeue 12\n")


@pytest.mark.parametrize(("code", "queued"), [(137, ""), (75, ""), (77, "requeue 12\n")])
def test_restarts_without_an_end_of_its_own_are_limited(tmp_path, code, queued):
    assert submit(tmp_path, code, SLURM_RESTART_COUNT="10")[::2] == (0 if queued else code, queued)


def test_what_is_run(tmp_path):
    flags = ["--wait=60", "--cpu-bind=none", "py", "-m", "neo_jax.train", "--start-seconds=600"]
    assert submit(tmp_path, 0)[1] == [*flags, "--config=a.py", "--config.run.seed=1 2"]


def test_the_processes_share_a_secret(tmp_path):
    secrets = []
    for _ in range(2):
        _, arguments, _ = submit(tmp_path, 0)
        secrets.append((tmp_path / "secret").read_text())
        assert re.fullmatch("[0-9a-f]{64}", secrets[-1]) and not any(secrets[-1] in argument for argument in arguments)
    assert secrets[0] != secrets[1]
    submit(tmp_path, 0, NEO_JAX_SECRET="given by the user")
    assert (tmp_path / "secret").read_text() == "given by the user"


def test_usage(tmp_path):
    assert submit(tmp_path, 0, ()) == (78, [], "")


def test_directives():
    lines = [line.split(None, 1)[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--ntasks-per-node=1", "--requeue", "--signal=TERM@300"} <= set(lines)
    assert SCRIPT.read_text().index("set -u") > SCRIPT.read_text().rindex("#SBATCH"), "SLURM reads directives up to the first command"
