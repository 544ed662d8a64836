"""What all drills share: a corpus, runs that nothing disturbs, processes that are watched and harmed, and comparison of what runs leave."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.scenes import ScenesSettings

CODE = pathlib.Path(__file__).parents[1]
SCENES = ScenesSettings(seed=1, text=120, caption=20, image=120, large=20, multi=20, video=12, held_out=3)
TIMEOUT = 900.0  # seconds after which what a drill waits for counts as missing
COMPARED = ("loss", "weight", "gradient_norm", "source_loss", "heldout_loss", "tokens", "fill", "phase")
EXACT = ("tokens", "fill", "phase")  # equal on every mesh
TOLERANCE = 1e-5  # of losses on another mesh
TRAIN = ("-m", "neo_jax.train")
PROBE_SECONDS = 0.2  # of computing, by which the load of the machine is measured


class DrillError(Exception):
    """A drill failed: its criterion does not hold, or what it was to do did not happen."""


def expect(holds: object, otherwise: str) -> None:
    """Raises DrillError with this sentence if something does not hold."""
    if not holds:
        raise DrillError(otherwise)


def slowness() -> float:
    """Returns how many seconds this machine takes now for a second of computing on one core: 1 if it is idle."""
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < PROBE_SECONDS:
        sum(range(1000))
    return max(1.0, (time.monotonic() - began) / PROBE_SECONDS)


class Run:
    """A command that a drill started. Its output goes into a file, so that no full pipe stops it.

    Attributes:
      process: the command itself.
      directory: of the run that it trains.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: pathlib.Path, output: pathlib.Path):
        self.directory, self._output = directory, output
        self.began = time.monotonic()
        with output.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=CODE, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, process_group=0
            )

    @property
    def said(self) -> str:
        """What it has printed until now."""
        return self._output.read_text(errors="replace")

    def until(self, happened: Callable[[], Any], what: str, pause: float = 0.002) -> None:
        """Waits until something has happened. Raises DrillError if the command ends before."""
        deadline = time.monotonic() + TIMEOUT
        while not happened():
            if self.process.poll() is not None and not happened():
                raise DrillError(f"it ended with {self.process.returncode} before {what}: {self.said[-2000:]}")
            expect(time.monotonic() < deadline, f"not within {TIMEOUT:.0f} s: {what}")
            time.sleep(pause)

    def until_step(self, step: int) -> None:
        self.until(lambda: last_step(self.directory) >= step, f"step {step} was logged")

    def until_saved(self, step: int) -> None:
        self.until((self.directory / "checkpoints" / str(step)).exists, f"step {step} was saved")

    def until_saving(self, step: int) -> None:
        """Waits until a checkpoint of this step or a later one is being written."""
        self.until(lambda: any(number >= step for number in being_saved(self.directory)), f"step {step} was being saved", 0.0)

    def end(self, *codes: int, seconds: float = TIMEOUT) -> float:
        """Waits for the end and returns the seconds until it. Raises DrillError unless the exit code is one of these."""
        began = time.monotonic()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DrillError(f"it still runs after {seconds:.0f} s: {self.said[-2000:]}") from None
        expect(code in codes, f"exit code {code}, not {' or '.join(map(str, codes))}: {self.said[-3000:]}")
        return time.monotonic() - began

    def kill(self) -> None:
        """Kills the command itself and nothing that it started."""
        self.process.kill()
        self.process.wait()
        expect(self.process.returncode == -signal.SIGKILL, f"it ended with {self.process.returncode} before it was killed")

    def stop_all(self) -> None:
        """Leaves nothing of it behind."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Lab:
    """A folder with a corpus, a compile cache, runs that nothing disturbed, and what a drill writes.

    Args:
      root: corpus and compile cache in it are kept from one call to the next.
    """

    def __init__(self, root: pathlib.Path):
        self.root = root.absolute()
        self.root.mkdir(parents=True, exist_ok=True)
        self._undisturbed: dict[str, pathlib.Path] = {}
        self._runs: list[Run] = []
        for name in ("undisturbed", "now"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def prepare(self) -> None:
        """Draws the corpus and trains its tokenizer, unless they are there; in a process of its own, so that this one never starts jax."""
        code = "import pathlib, sys; from neo_jax.demo import prepare; from drills.lab import SCENES; prepare(pathlib.Path(sys.argv[1]), SCENES)"
        subprocess.run([sys.executable, "-c", code, str(self.root / "corpus")], cwd=CODE, env=self.environment(), check=True)

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[pathlib.Path]:
        """An empty folder for one drill. Whatever the drill started is ended behind it."""
        folder = self.root / "now" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            for run in self._runs:
                run.stop_all()
            self._runs.clear()
        shutil.rmtree(folder)  # of a drill that failed, everything is kept

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of runs: one compile cache, and machine code that is not optimised, which compiles sooner."""
        return os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.root / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "PYTHONPATH": str(CODE),
            **more,
        }

    def settings(self, directory: pathlib.Path, **settings: Any) -> list[str]:
        """The flags of a run in this directory. settings: keys of the configuration, with __ for dots."""
        keys = {"run__directory": directory} | settings
        return [
            f"--config={CODE / 'drills' / 'tiny.py'}:{self.root}",
            *(f"--config.{key.replace('__', '.')}={value}" for key, value in keys.items()),
        ]

    def start(self, command: Sequence[str], directory: pathlib.Path, environment: Mapping[str, str] | None = None) -> Run:
        """Starts any command that writes this run directory. What it prints is kept elsewhere: the disk of its run may be full."""
        output = self.root / "printed" / f"{len(self._runs)}.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        self._runs.append(Run(command, environment or self.environment(), directory, output))
        return self._runs[-1]

    def train(
        self,
        directory: pathlib.Path,
        *flags: str,
        program: Sequence[str] = TRAIN,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Run:
        """Starts one training process. program: what Python runs instead of neo_jax.train."""
        return self.start([sys.executable, *program, *self.settings(directory, **settings), *flags], directory, environment)

    def launch(self, directory: pathlib.Path, processes: int = 2, devices: int = 1, program: Sequence[str] = TRAIN, **settings: Any) -> Run:
        """Starts a run under launch/local.py. processes 1, devices 0: one process with the device that there is."""
        launcher = [sys.executable, str(CODE / "launch" / "local.py")]
        launcher += [f"--processes={processes}", f"--devices={devices}"] if devices else []
        return self.start([*launcher, "--", sys.executable, *program, *self.settings(directory, **settings)], directory)

    def undisturbed(self, name: str = "one", processes: int = 1, devices: int = 0, **settings: Any) -> pathlib.Path:
        """The directory of a run that nothing disturbed, made when the first drill asks for it."""
        if name not in self._undisturbed:
            directory = self.root / "undisturbed" / name / "run"
            run = self.launch(directory, processes, devices, **settings)
            run.end(0)
            expect("starting it again" not in run.said, "the undisturbed run was started again")
            self._undisturbed[name] = directory
        return self._undisturbed[name]

    def pair(self) -> pathlib.Path:
        """The undisturbed run of two processes with a device each."""
        return self.undisturbed("pair", 2, 1)


def records(directory: pathlib.Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics."""
    path = directory / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def last_step(directory: pathlib.Path) -> int:
    """The last step that a run has logged; 0 if none."""
    return max((line["step"] for line in records(directory)), default=0)


def saved(directory: pathlib.Path) -> list[int]:
    """Steps with a complete checkpoint."""
    return sorted(int(path.name) for path in (directory / "checkpoints").glob("*") if path.name.isdigit())


def being_saved(directory: pathlib.Path) -> list[int]:
    """Steps whose checkpoint is being written, or was when its process died."""
    names = [path.name.split(".")[0] for path in (directory / "checkpoints").glob("*orbax-checkpoint-tmp*")]
    return sorted(int(name) for name in names if name.isdigit())


def answers(directory: pathlib.Path) -> list[Any]:
    return [json.loads(path.read_text())["answers"] for path in sorted((directory / "evaluations").glob("*.json"))]


def same(directory: pathlib.Path, undisturbed: pathlib.Path, exactly: bool = True, after: int = 0) -> str:
    """Compares a run with an undisturbed one; returns what was compared. Raises DrillError at a difference.

    Args:
      exactly: bit for bit, answers to held-out questions too; else losses to TOLERANCE.
      after: steps up to this one are left out.
    """
    ours, theirs = ([line for line in records(each) if line["step"] > after] for each in (directory, undisturbed))
    expect(theirs, "the undisturbed run has no steps")
    expect([line["step"] for line in ours] == [line["step"] for line in theirs], f"its steps are {[line['step'] for line in ours]}")
    largest = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        for key in COMPARED:
            difference = _difference(mine.get(key), other.get(key))
            if not exactly and key not in EXACT and key != "gradient_norm":
                largest = max(largest, difference)
            allowed = 0.0 if exactly or key in EXACT else 1e-3 if key == "gradient_norm" else TOLERANCE
            expect(difference <= allowed, f"{key} of step {mine['step']} is {mine.get(key)}, undisturbed {other.get(key)}")
    if exactly:
        expect(answers(directory) == answers(undisturbed), "answers to held-out questions differ from those of the undisturbed run")
        return f"{len(ours)} steps and {len(answers(directory))} evaluations equal bit for bit"
    return f"{len(ours)} steps equal to {largest:.1g}"


def _difference(mine: Any, other: Any) -> float:
    """The largest relative difference of two values of metrics; infinite if they are not alike."""
    if isinstance(mine, dict) and isinstance(other, dict):
        return max((_difference(mine[key], other[key]) for key in mine), default=0.0) if mine.keys() == other.keys() else math.inf
    if mine == other:
        return 0.0
    if isinstance(mine, float) and isinstance(other, float):
        return abs(mine - other) / max(abs(other), 1e-12)
    return math.inf


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    parents: dict[int, list[int]] = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found = list(parents.get(pid, ()))
    for child in found:
        found += parents.get(child, ())
    return found


def members(run: Run) -> dict[int, int]:
    """The training processes of a launcher: process id by the number of the process; a single one is number 0."""
    found = {}
    for pid in descendants(run.process.pid):
        with contextlib.suppress(OSError):
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if any(each.startswith("--config=") for each in command):
                (number,) = [each.partition("=")[2] for each in command if each.startswith("--process=")] or ["0"]
                found[int(number)] = pid
    return found


def state_of(pid: int) -> str:
    """The letter by which Linux names the state of a process: R, S, T (stopped), Z; "" if it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def gone(pid: int) -> bool:
    return state_of(pid) in ("", "Z", "X")


def kill(pid: int) -> None:
    """Sends SIGKILL and waits until the process is gone."""
    expect(not gone(pid), "the process that was to be killed was gone already")
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not gone(pid):
        expect(time.monotonic() < deadline, "a killed process is not gone")
        time.sleep(0.001)
