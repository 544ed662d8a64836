"""Training commands in processes of their own, and what they leave in their run directories."""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

from tests.neo_jax.training.tiny_run import tiny_config_dict

ROOT = pathlib.Path(__file__).parents[3]
COMPARED = ("loss", "weight", "gradient_norm", "source_loss", "heldout_loss", "tokens", "fill", "phase")
FAST = "--xla_backend_optimization_level=0"  # machine code that is not optimised compiles sooner; the sums are the same
TIMEOUT = 1500  # seconds; a limit against hanging for ever, far above what a loaded machine needs


def write_config(corpus: pathlib.Path, directory: pathlib.Path, **overrides) -> pathlib.Path:
    """A configuration file for a run in `directory`."""
    values = tiny_config_dict(corpus, directory).to_dict()
    for key, value in overrides.items():
        section = values
        *path, last = key.split("__")
        for name in path:
            section = section[name]
        section[last] = value
    file = directory.with_suffix(".py")
    file.write_text(f"from ml_collections import ConfigDict\ndef get_config(arg=None):\n    return ConfigDict({values!r})\n")
    return file


TRAIN = ("-m", "neo_jax.train")


def environment_of_runs() -> dict[str, str]:
    """Fast to compile, and every program kept: the runs of the tests compile the same ones."""
    return os.environ | {"XLA_FLAGS": FAST, "PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def start(
    file: pathlib.Path, *flags: str, root: pathlib.Path = ROOT, xla_flags: str = FAST, program: tuple[str, ...] = TRAIN
) -> subprocess.Popen:
    """The program with these flags beside --config, from the code in `root`, in an environment without virtual devices."""
    environment = environment_of_runs() | {"XLA_FLAGS": xla_flags, "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, *program, f"--config={file}", *flags],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(file: pathlib.Path, *flags: str, **options) -> tuple[int, str]:
    process = start(file, *flags, **options)
    output, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, output + errors


def metrics(directory: pathlib.Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: line.get(key) for key in ("step", *COMPARED)} for line in lines]


def answers(directory: pathlib.Path) -> list:
    return [json.loads(path.read_text())["answers"] for path in sorted((directory / "evaluations").glob("*.json"))]


def wait_for_step(process: subprocess.Popen, directory: pathlib.Path, step: int) -> None:
    """Until the run has logged this step."""
    path = directory / "metrics.jsonl"
    wait_for(process, lambda: path.exists() and any(f'"step": {step},' in line for line in path.read_text().splitlines()))


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    """Until this has happened, while the process runs."""
    deadline = time.monotonic() + TIMEOUT
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)
