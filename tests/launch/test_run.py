"""The front end: which command lines it refuses, and that what it prints is what it submits."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from launch import run

TRAIN = ("--", "python", "-m", "neo_jax.train", "--config=configs/demo.py")
TARGETS = {
    "slurm": ("sbatch", ["--target=slurm", "--hardware=h200:4x8", "--restarts=5", "--sbatch=partition=gpu", "--env=A=b c,XLA_FLAGS="]),
    "jobset": ("kubectl", ["--target=jobset", "--hardware=v6e:4x4", "--image=i", "--env=A=b c"]),
}


def call(*arguments: str) -> int:
    return run.main(arguments)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_printed_is_submitted(target, tmp_path, monkeypatch, capsys):
    program, flags = TARGETS[target]
    assert call(*flags, "--dry-run", *TRAIN) == 0
    shown = capsys.readouterr().out
    (tmp_path / program).write_text(f"#!/bin/sh\ncat > {tmp_path}/submitted\nexit 4\n")
    (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert call(*flags, *TRAIN) == 4
    submitted = (tmp_path / "submitted").read_text()
    assert submitted == "".join(line for line in shown.splitlines(True) if not line.startswith("# the same with xpk"))
    assert "b c" in submitted
    monkeypatch.setenv("PATH", "")
    assert call(*flags, *TRAIN) == 78
    assert f"{program}: no such program here" in capsys.readouterr().err


def test_slurm(capsys):
    assert call(*TARGETS["slurm"][1], "--dry-run", *TRAIN, "--config.run.seed=3") == 0
    text = capsys.readouterr().out
    assert "#SBATCH --nodes=4\n" in text and "#SBATCH --gpus-per-node=8\n" in text and "#SBATCH --exclusive\n" in text
    assert "#SBATCH --partition=gpu\n" in text and "-ge 5 ]" in text and "#SBATCH --signal=TERM@300\n" in text
    assert "export JAX_OPTIMIZATION_LEVEL=O1\n" in text and "export XLA_FLAGS=''\n" in text, "--env replaces what the hardware sets"
    assert "python -m neo_jax.train --start-seconds=600 --config=configs/demo.py --config.run.seed=3\n" in text


def test_array(capsys):
    assert call("--target=slurm", "--array=0-3", "--dry-run", *TRAIN, "--config.run.seed={index}") == 0
    text = capsys.readouterr().out
    assert '--config.run.seed="$SLURM_ARRAY_TASK_ID"\n' in text and "exclusive" not in text


def test_local(tmp_path, capsys):
    directory = f"--config.run.directory={tmp_path}/run"
    assert call("--target=local", "--processes=2", "--devices=3", "--env=A=b c", "--dry-run", *TRAIN, directory) == 0
    line = capsys.readouterr().out
    expected = "python launch/local.py --processes=2 --devices=3 --grace-seconds=120 -- python -m neo_jax.train --config=configs/demo.py"
    assert line == f"A='b c' {expected} {directory}\n"
    program = tmp_path / "fails_once"  # stands for a Python
    program.write_text(f'#!/bin/sh\necho "$A" "$@" >> {tmp_path}/log\n[ $(wc -l < {tmp_path}/log) -gt 1 ]\n')
    program.chmod(0o755)
    root = pathlib.Path(__file__).parents[2]
    words = ["-m", "launch.run", "--target=local", "--env=A=b", "--", str(program), *TRAIN[2:], directory]
    assert subprocess.run([sys.executable, *words], cwd=root, check=False, timeout=60).returncode == 0
    assert (tmp_path / "log").read_text() == f"b -m neo_jax.train --config=configs/demo.py {directory}\n" * 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--target=slurm", "there is no command"),
        ("--target=slurm -- neo_jax.train --config=configs/demo.py", "must begin with a Python, -m and a module"),
        ("--target=slurm -- python train.py --config=configs/demo.py", "must begin with a Python, -m and a module"),
        ("--target=slurm -- python -m neo_jax.train --config=configs/none.py", "configs/none.py"),
        ("--target=slurm -- python -m neo_jax.train --config=configs/demo.py --config.run.sed=3", "run.sed"),
        ("--target=sulrm -- python -m neo_jax.train", "did you mean 'slurm'"),
        ("-- python -m neo_jax.train", "--target is missing"),
        ("--target=slurm --image=a -- python -m neo_jax.train", "--image: is a flag of --target=jobset, not of slurm"),
        ("--target=local --zone=a -- python -m neo_jax.train", "--zone: is a flag of --target=tpu_vm, not of local"),
        ("--target=slurm --hardware=v5p:2x2x1 -- python -m neo_jax.train", "TPUs have no SLURM"),
        ("--target=slurm --hardware=h200:2x8 --nodes=2 -- python -m neo_jax.train", "leave one of them out"),
        ("--target=slurm --nodes=2 -- python -m neo_jax.export", "a command of one process"),
        ("--target=jobset --image=a -- python -m neo_jax.train", "--hardware: is missing"),
        ("--target=jobset --hardware=h200 --image=a -- python -m neo_jax.train", "not understood"),
        ("--target=jobset --hardware=h200:1x8 -- python -m neo_jax.train", "--image is missing"),
        ("--target=local --processes=2 -- python -m neo_jax.train", "--devices: is missing"),
        ("--target=local --hardware=h200:2x8 -- python -m neo_jax.train", "is 2 hosts, and this machine is one"),
        ("--target=local -- python -m neo_jax.train", "has no --config"),
        ("--target=local --env=a -- python -m neo_jax.train", "must be NAME=VALUE"),
        ("--target=local -- nopython -m neo_jax.train --config=configs/demo.py", "nopython: no such program"),
    ],
)
def test_refused(arguments, sentence, capsys):
    assert call(*arguments.split()) == 78
    assert sentence in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit):
        call("--help")
    shown = capsys.readouterr().out
    assert "--job-name=TEXT" in shown and "usage: python -m launch.run" in shown


def test_the_examples_of_the_documentation(capsys):
    root = pathlib.Path(__file__).parents[2]
    texts = "".join((root / name).read_text() for name in ("README.md", "docs/scale.md"))
    examples = re.findall(r"python -m launch\.run ((?:(?!TARGET)[^`\n])* -- [^`\n]*)", texts)
    assert {re.search(r"--target=(\w+)", example)[1] for example in examples} == set(run.OF_TARGET)
    for example in examples:
        words = example.replace("=FILE", "=configs/demo.py").split()
        assert call("--dry-run", *(word for word in words if word != "--dry-run")) == 0, capsys.readouterr().err
        assert "neo_jax.train" in capsys.readouterr().out
