"""The batch script with stand-ins for srun and scontrol: what it does with each exit code."""

import os
import pathlib
import re
import subprocess

import pytest

from launch.targets.slurm import INDEX, Job, script, submit
from neo_jax.config import ConfigError
from neo_jax.processes.flags import SECRET

COMMAND = ("py", "-m", "neo_jax.train", "--config=a.py", "--config.run.seed=1 2", "--config.run.directory=$HOME/it's")


def run(folder: pathlib.Path, job: Job, code: int, **variables: str):
    """Runs a script; returns its exit code, srun's arguments and what scontrol was asked for."""
    for name, body in (
        ("srun", f'printf "%s\\n" "$@" > {folder}/srun.log\nenv > {folder}/environment.log\nexit {code}'),
        ("scontrol", f'echo "$@" >> {folder}/scontrol.log'),
    ):
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "12", "SLURM_SUBMIT_DIR": str(folder)} | variables
    result = subprocess.run(["bash"], input=script(job), env=environment, capture_output=True, text=True)
    called, queued = folder / "srun.log", folder / "scontrol.log"
    return (
        result.returncode,
        called.read_text().splitlines() if called.exists() else [],
        queued.read_text() if queued.exists() else "",
    )


@pytest.mark.parametrize("code", [0, 65, 70, 78])
def test_final(tmp_path, code):
    assert run(tmp_path, Job(command=COMMAND), code)[::2] == (code, "")


@pytest.mark.parametrize("code", [1, 75, 77, 134, 137])
def test_queued_again(tmp_path, code):
    assert run(tmp_path, Job(command=COMMAND), code, SLURM_RESTART_COUNT="9")[::2] == (0, "requeue 12\n")


@pytest.mark.parametrize(("code", "queued"), [(137, ""), (75, ""), (77, "requeue 12\n")])
def test_restarts_without_an_end_of_its_own_are_limited(tmp_path, code, queued):
    assert run(tmp_path, Job(command=COMMAND, retries=3), code, SLURM_RESTART_COUNT="3")[::2] == (0 if queued else code, queued)


def test_sigterm_to_the_batch_shell_leaves_it_to_read_the_exit_code(tmp_path):
    text = script(Job(command=COMMAND)).replace("srun --wait", "kill -TERM $$; srun --wait")
    for name, body in (("srun", "exit 77"), ("scontrol", f'echo "$@" > {tmp_path}/queued')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "12", "SLURM_SUBMIT_DIR": str(tmp_path)}
    assert subprocess.run(["bash"], input=text, env=environment, text=True, check=False, stderr=subprocess.DEVNULL).returncode == 0
    assert (tmp_path / "queued").read_text() == "requeue 12\n"


def test_what_is_run(tmp_path):
    assert run(tmp_path, Job(command=COMMAND, environment={"FLAGS": "--a=1 --b='2'"}), 0)[1] == ["--wait=60", "--cpu-bind=none", *COMMAND]
    assert "FLAGS=--a=1 --b='2'\n" in (tmp_path / "environment.log").read_text()


def test_the_processes_share_a_secret(tmp_path):
    secrets = []
    for given in ({}, {}, {SECRET: "given by the user"}):
        _, arguments, _ = run(tmp_path, Job(command=COMMAND), 0, **given)
        lines = (tmp_path / "environment.log").read_text().splitlines()
        secrets += [line.removeprefix(f"{SECRET}=") for line in lines if line.startswith(SECRET)]
        assert not any(secrets[-1] in argument for argument in arguments)
    assert secrets[2:] == ["given by the user"] and secrets[0] != secrets[1]
    assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in secrets[:2])


def test_a_folder_that_does_not_exist(tmp_path):
    assert run(tmp_path, Job(command=COMMAND, folder="/no/such folder"), 0) == (78, [], "")


def test_an_array(tmp_path):
    job = Job(command=("py", "-m", "sweep", f"--index={INDEX}", "a b", f"x {INDEX} $y", ""), array="0-99%8")
    ran = run(tmp_path, job, 77, SLURM_ARRAY_JOB_ID="40", SLURM_ARRAY_TASK_ID="7")
    # By its index: the number of one job of an array is that of the whole array.
    assert ran == (0, ["--wait=60", "--cpu-bind=none", "py", "-m", "sweep", "--index=7", "a b", "x 7 $y", ""], "requeue 40_7\n")
    assert {"#SBATCH --array=0-99%8", "#SBATCH --output=%x-%A_%a.log"} <= set(script(job).splitlines())


def test_directives():
    job = Job(command=COMMAND, nodes=4, gpus_per_node=8, time="2-0", options=("partition=gpu", "account=mine"), exclusive=False)
    lines = script(job).splitlines()
    directives = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert directives[:4] == ["job-name=neo-jax", "nodes=4", "ntasks-per-node=1", "gpus-per-node=8"]
    assert {"time=2-0", "requeue", "signal=TERM@300"} <= set(directives) and "exclusive" not in directives
    assert directives[-2:] == ["partition=gpu", "account=mine"]
    assert lines[len(directives) + 1] == "set -u", "SLURM reads directives up to the first command"


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (Job(command=()), "no command to run"),
        (Job(command=COMMAND, options=("partition=a\n#SBATCH b",)), "no white space"),
        (Job(command=COMMAND, array="0-9"), "would do the same"),
        (Job(command=("a", INDEX)), "is no array"),
        (Job(command=("a", INDEX), array="0-9%0"), "are not understood"),
        (Job(command=("a", INDEX), array="0-9\n#SBATCH"), "no white space"),
    ],
)
def test_refused(job, sentence):
    with pytest.raises(ConfigError, match=sentence):
        script(job)


def test_submit(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\n/bin/cat > {tmp_path}/text\nexit 3\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit("#!/bin/bash\n") == 3 and (tmp_path / "text").read_text() == "#!/bin/bash\n"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="sbatch: no such program here"):
        submit("")
