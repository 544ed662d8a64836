"""Times what the launcher of a sweep adds to its runs: 24 runs of the demo's smoke configuration; writes benchmarks/results/sweep.json.

    python -m benchmarks.sweep [--runs 24] [--parallel 1]        (about 10 minutes on two cores)

overhead = (wall time of the sweep x parallel - time of the runs' processes) / time of the runs' processes. A process's time goes from its start to
its last line of Python. Wanted: less than 5%. Expected: a run's end is noticed after at most 0.05 s + 0.1 s and an interpreter ends in about 0.1 s:
0.3 s of 20 to 30 s a run.
"""

from __future__ import annotations

import argparse
import atexit
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

RESULT = pathlib.Path("benchmarks/results/sweep.json")
FOLDER = pathlib.Path(".cache/benchmark_sweep")
FILE = '''"""How much time does the launcher add?"""
from neo_jax.sweeps.choices import seeds
CONFIG, COMMAND = "configs/demo.py:smoke", "benchmarks.sweep"
def sweep():
    return seeds([{{}}], {runs})
'''


def run(arguments: list[str]) -> int:
    """Trains as neo_jax.demo does, and records how long this process lived."""
    from neo_jax import demo

    def record() -> None:
        started = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        now = float(pathlib.Path("/proc/uptime").read_text().split()[0])
        with (FOLDER / "lifetimes.txt").open("a") as file:
            file.write(f"{now - started}\n")

    atexit.register(record)
    return demo.main(arguments, demo.demo, demo.DEMO)


def main() -> int:
    from benchmarks.step import machine

    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--parallel", type=int, default=1)
    flags = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "smoke.py").write_text(FILE.format(runs=flags.runs))
    command = [
        sys.executable,
        "-m",
        "launch.sweep",
        "run",
        str(FOLDER / "smoke.py"),
        f"--folder={FOLDER}",
        f"--parallel={flags.parallel}",
        "--devices=2",
    ]
    here, begin = machine(os.getloadavg()[0]), time.monotonic()
    subprocess.run(command, check=True)
    wall = time.monotonic() - begin
    lifetimes = [float(line) for line in (FOLDER / "lifetimes.txt").read_text().splitlines()]
    assert len(lifetimes) == flags.runs
    runs = sum(lifetimes)
    result = {
        "command": "python -m benchmarks.sweep " + " ".join(sys.argv[1:]),
        "formula": "overhead = (wall_seconds x parallel - run_seconds) / run_seconds",
        "machine": here,
        "versions": {"python": platform.python_version(), "jax": importlib.metadata.version("jax")},
        "runs": flags.runs,
        "parallel": flags.parallel,
        "wall_seconds": round(wall, 1),
        "run_seconds": round(runs, 1),
        "overhead": round((wall * flags.parallel - runs) / runs, 4),
        "overhead_seconds_per_run": round((wall * flags.parallel - runs) / flags.runs, 3),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]) if any(each.startswith("--config") for each in sys.argv[1:]) else main())
