"""A real SLURM of one node on this machine, for the tests of this folder: `make test-slurm`."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "slurm_here.sh"
SECONDS = 300.0  # until something that a test waits for is there, on a loaded machine


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The cluster; SLURM's commands reach it by the environment."""
    if missing := [program for program in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(program) is None]:
        pytest.skip(f"there is no SLURM here ({', '.join(missing)} not found): make test-slurm installs Debian's")
    folder = tempfile.mkdtemp(prefix="slurm-")  # short, unlike pytest's: the path of a socket has at most 107 characters
    before = dict(os.environ)
    subprocess.run([SCRIPT, "start", folder], check=True)
    os.environ.update(SLURM_CONF=f"{folder}/slurm.conf", PYTHONPATH=f"{ROOT}:{ROOT / 'tests/launch'}", JAX_PLATFORMS="cpu")
    os.environ.pop("XLA_FLAGS", None)  # eight devices are for tests in this process
    yield
    os.environ.clear()
    os.environ.update(before)
    subprocess.run([SCRIPT, "stop", folder], check=True)
    shutil.rmtree(folder)


def slurm(*command: str, text: str | None = None) -> str:
    """Returns what a command of SLURM prints."""
    return subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.PIPE).stdout.strip()


def wait_for(what: str, found: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not found():
        assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {what}\n{slurm('squeue', '--array', '--states=all')}"
        time.sleep(0.2)
