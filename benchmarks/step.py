"""Times the training step beside the same step in PyTorch, in turns, and writes benchmarks/results/step_cpu.json.

    make benchmark-step         (makes both environments first; within 25 minutes)

benchmarks/train_step.py runs ten steps and records parameters, batches and losses; benchmarks/torch_step.py repeats them from the record, eagerly
and under torch.compile. Nothing is timed unless all losses agree to LARGEST_DIFFERENCE. Then each takes its turn, round after round.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.worker import Worker, WorkerError

FOLDER = pathlib.Path(".cache/benchmark_step")  # as in train_step.py, which this program cannot import: it would start jax
RESULT = pathlib.Path("benchmarks/results/step_cpu.json")
TORCH_PYTHON = ".venv-torch/bin/python"
LARGEST_DIFFERENCE = 1e-4  # of losses, over ten steps
STEPS = 5  # timed without a pause
ROUNDS, FEWEST_ROUNDS = 9, 3
TIMING_SECONDS = 600  # after which no further round begins, beyond FEWEST_ROUNDS
QUIET_LOAD = 0.5  # processes that ran before the benchmark began; above it the machine counts as shared
NAMES = ("ours", "torch_eager", "torch_compile")
FORMULA = (
    f"milliseconds of a step: the least over the rounds of the mean of {STEPS} steps that follow each other; the three programs take turns. "
    "ours/torch ratios compare these. loss_difference: largest absolute difference from our loss over ten steps before, eager and compiled."
)


def loss_difference(ours: np.ndarray, others: Mapping[str, np.ndarray]) -> float:
    """Returns the largest absolute difference between our losses and the others', over all steps.

    Raises:
      ValueError: it is above LARGEST_DIFFERENCE, or not finite; the message names the program and the step.
    """
    for name, losses in others.items():
        differences = np.abs(losses - ours)
        if not (differences <= LARGEST_DIFFERENCE).all():
            step = int(np.argmax(~(differences <= LARGEST_DIFFERENCE)))
            raise ValueError(
                f"the losses of {name} differ from ours at step {step + 1}: {losses[step]:.6f} and {ours[step]:.6f}, more than "
                f"{LARGEST_DIFFERENCE}: the programs do not compute the same, so nothing was timed"
            )
    return max(float(np.abs(losses - ours).max()) for losses in others.values())


def time_in_turns(programs: Mapping[str, tuple[Worker, str]]) -> dict[str, list[float]]:
    """Returns the milliseconds of a step, for each program and round.

    Args:
      programs: the worker and the name of its timer.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for worker, timer in programs.values():
        worker.seconds(timer, 1)
    start = time.monotonic()
    for number in range(ROUNDS):
        if number >= FEWEST_ROUNDS and time.monotonic() - start > TIMING_SECONDS:
            break
        for name, (worker, timer) in programs.items():
            times[name].append(worker.seconds(timer, STEPS) / STEPS * 1e3)
        print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    return times


def result_row(context: int, rows: int, difference: float, times: Mapping[str, list[float]]) -> dict[str, Any]:
    """One object of the result's "rows"."""
    row: dict[str, Any] = {"context": context, "rows_per_step": rows}
    row |= {f"{name}_ms": round(min(each), 1) for name, each in times.items()}
    row |= {"loss_difference": difference, "rounds": len(times["ours"])}
    row["median_ms"] = {name: round(statistics.median(each), 1) for name, each in times.items()}
    row["slowest_ms"] = {name: round(max(each), 1) for name, each in times.items()}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The result as text."""
    lines = ["tokens x rows    ours ms   eager ms  compile ms   eager/ours  compile/ours   largest loss difference"]
    for row in rows:
        ours, eager, compiled = (row[f"{name}_ms"] for name in NAMES)
        lines.append(
            f"{row['context']:>6} x {row['rows_per_step']:<5} {ours:>9.1f} {eager:>10.1f} {compiled:>11.1f} {eager / ours:>12.2f} "
            f"{compiled / ours:>13.2f} {row['loss_difference']:>25.1e}"
        )
    return "\n".join(lines)


def machine(load_before: float) -> dict[str, Any]:
    """Describes this machine and what else ran on it."""
    names = [line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
        "load_average_before": round(load_before, 2),
        "shared": load_before > QUIET_LOAD,
    }


def measure(ours: Worker, torch: Worker) -> tuple[list[dict[str, Any]], str]:
    """Compares the recorded losses, then times. Returns the result's rows and PyTorch's version. Raises ValueError as loss_difference does."""
    rows, differences, version = {}, {}, ""
    for path in sorted(FOLDER.glob("step_*.npz"), key=lambda path: int(path.stem.removeprefix("step_"))):
        context = int(path.stem.removeprefix("step_"))
        with np.load(path, allow_pickle=False) as record, np.load(FOLDER / f"torch_{context}.npz", allow_pickle=False) as theirs:
            differences[context] = loss_difference(record["losses"], {f"PyTorch ({kind})": theirs[kind] for kind in ("eager", "compile")})
            rows[context], version = record["batch/tokens"].shape[1], str(theirs["version"])
    programs = {
        f"{context} {name}": (ours, str(context)) if name == "ours" else (torch, f"{context}_{name.removeprefix('torch_')}")
        for context in rows
        for name in NAMES
    }
    times = time_in_turns(programs)
    results = [
        result_row(context, rows[context], differences[context], {name: times[f"{context} {name}"] for name in NAMES}) for context in rows
    ]
    return results, version


def main() -> int:
    load = os.getloadavg()[0]
    os.environ["JAX_PLATFORMS"] = "cpu"
    for path in FOLDER.glob("*.npz"):  # of an earlier call
        path.unlink()
    try:
        ours = Worker([sys.executable, "-m", "benchmarks.train_step", "--serve"])
        torch = Worker([TORCH_PYTHON, "-m", "benchmarks.torch_step", str(FOLDER)])
        rows, version = measure(ours, torch)
        for worker in (ours, torch):
            worker.close()
    except (ValueError, WorkerError) as error:
        print(f"benchmark-step: {error}", file=sys.stderr)
        return 1
    versions = {"python": platform.python_version(), "torch": version}
    versions |= {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    result = {"command": "make benchmark-step", "formula": FORMULA, "machine": machine(load), "versions": versions, "rows": rows}
    if result["machine"]["shared"]:
        note = f"Other work ran on this machine ({load:.1f} processes on average before the start): compare ratios with care, and times not at all."
        result["note"] = note
        print(note)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{table(rows)}\nwritten to {RESULT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
