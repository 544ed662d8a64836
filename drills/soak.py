"""A run of many short phases whose processes are killed at random times: what it costs, whether losses stay equal, and what grows.

python -m drills.soak --minutes=60 [--kill-every=180] [--seed=0]          (make soak; writes its section of docs/drills.md with --write)

First the curriculum runs undisturbed; memory, threads and descriptors of its processes are read at the end of each phase. Then it runs again, and
every so many seconds on average a worker, the coordinator or both are killed. Both are runs of two processes under launch/local.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import random
import signal
import sys
import time

from drills import document
from drills.lab import CODE, TRAIN, DrillError, Lab, Run, expect, gone, kill, last_step, members, records, same
from neo_jax.runs.goodput import Goodput, read_goodput

PHASES = 24
TRIAL_STEPS = 20  # of each phase of the run by which the number of steps is chosen
DISTURBED = 0.55  # of the time for the run that is killed
WARM = 8  # phases that are not compared: the first ones fill caches and compile
MEMORY_GROWTH = 0.05  # of resident memory from there to the end
MORE_THREADS, MORE_FILES = 2, 4  # from there to the end


@dataclasses.dataclass(frozen=True)
class Held:
    """What a process holds: resident bytes, threads, open descriptors."""

    memory: int
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> Held:
        fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
        return cls(int(fields["VmRSS"].split()[0]) << 10, int(fields["Threads"]), len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir())))


def start(lab: Lab, directory: pathlib.Path, phases: int, steps: int) -> Run:
    launcher = [sys.executable, str(CODE / "launch" / "local.py"), "--processes=2", "--devices=1", "--", sys.executable, *TRAIN]
    config = [f"--config={CODE / 'drills' / 'tiny.py'}:{lab.root},{phases},{steps}", f"--config.run.directory={directory}"]
    return lab.start([*launcher, *config], directory)


def watched(run: Run, phases: int) -> list[dict[int, Held]]:
    """Waits for the end of an undisturbed run; returns what each process held at the end of each phase."""
    held: list[dict[int, Held]] = []
    while len(held) < phases:
        run.until(lambda: len(list((run.directory / "evaluations").glob("*.json"))) > len(held), f"phase {len(held) + 1} ended", 0.02)
        found = members(run)
        expect(sorted(found) == [0, 1], f"its processes are {sorted(found)}")
        held.append({number: Held.of(pid) for number, pid in found.items()})
    run.end(0)
    return held


def growth(held: list[dict[int, Held]]) -> str:
    """Compares what processes hold behind phase WARM with what they hold at the end. Raises DrillError if it grows."""
    figures = []
    for process in (0, 1):
        warm, last = ([each[process] for each in part] for part in (held[WARM : WARM + 4], held[-4:]))
        memory = max(each.memory for each in last) / max(each.memory for each in warm) - 1
        threads, files = (
            max(getattr(each, name) for each in last) - max(getattr(each, name) for each in warm) for name in ("threads", "files")
        )
        figures.append(
            f"process {process}: {max(each.memory for each in last) >> 20} MiB ({memory:+.1%}), {last[-1].threads} threads ({threads:+d}), "
            f"{last[-1].files} descriptors ({files:+d})"
        )
        expect(memory <= MEMORY_GROWTH and threads <= MORE_THREADS and files <= MORE_FILES, f"it grows: {figures[-1]}")
    return "; ".join(figures)


def disturb(run: Run, every: float, draw: random.Random) -> int:
    """Kills processes of a run at random times until it has ended; returns how often."""
    kills, following = 0, time.monotonic() + every * draw.uniform(0.5, 1.5)
    while run.process.poll() is None:
        if time.monotonic() >= following and last_step(run.directory):
            chosen = draw.choice(((0,), (1,), (0, 1)))
            pids = [pid for number, pid in members(run).items() if number in chosen and not gone(pid)]
            for pid in pids:
                kill(pid)
            kills += bool(pids)
            following = time.monotonic() + every * draw.uniform(0.5, 1.5)
        time.sleep(0.05)
    return kills


def shares(goodput: Goodput) -> str:
    parts = sorted(goodput.seconds.items(), key=lambda each: -each[1])
    return ", ".join(f"{name} {seconds / goodput.total:.0%}" for name, seconds in parts if seconds / goodput.total >= 0.005)


def soak(lab: Lab, folder: pathlib.Path, minutes: float, every: float, seed: int) -> list[str]:
    """Carries out both runs; returns lines for the report. Raises DrillError."""
    trial = start(lab, folder / "trial", 2, TRIAL_STEPS)
    trial.end(0)
    spent = read_goodput(trial.directory)[0].seconds
    of_step = sum(spent[bucket] for bucket in ("step", "data", "save")) / (2 * TRIAL_STEPS)
    steps = max(TRIAL_STEPS, int(minutes * 60 * DISTURBED / 2 / of_step / PHASES))
    undisturbed = start(lab, folder / "undisturbed", PHASES, steps)
    held = watched(undisturbed, PHASES)
    began = time.monotonic()
    run = start(lab, folder / "run", PHASES, steps)
    kills = disturb(run, every, random.Random(seed))
    run.end(0)
    seconds = time.monotonic() - began
    starts = run.said.count("starting it again") + 1
    expect(kills >= 1 and starts == kills + 1, f"{kills} kills, {starts} starts")
    compared = same(run.directory, undisturbed.directory)
    calm, killed = (read_goodput(each.directory)[0] for each in (undisturbed, run))
    return [
        f"{PHASES} phases of {steps} steps; {kills} kills in {seconds / 60:.1f} minutes, on average every {every:.0f} s (seed {seed}).",
        f"Losses: {compared}.",
        f"Goodput undisturbed {calm.share:.0%} of {calm.total:.0f} s ({shares(calm)}); killed {killed.share:.0%} of {killed.total:.0f} s "
        f"({shares(killed)}).",
        f"From phase {WARM + 1} to {PHASES} of the undisturbed run: {growth(held)}.",
        f"{len(records(run.directory))} steps, the last one {last_step(run.directory)}.",
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m drills.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="about how long both runs take together")
    parser.add_argument("--kill-every", type=float, default=180.0, help="mean seconds between kills")
    parser.add_argument("--seed", type=int, default=0, help="of the times of kills")
    parser.add_argument("--write", action="store_true", help="writes the result into docs/drills.md")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(".cache/drills"), help="keeps the corpus and what was compiled")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a drill has started ends with it
    lab = Lab(options.folder)
    lab.prepare()
    try:
        with lab.scratch("soak") as folder:
            lines = soak(lab, folder, options.minutes, options.kill_every, options.seed)
    except DrillError as error:
        lines = [f"FAILED: {error}"]
    print("\n".join(lines))
    if options.write:
        document.write_soak(lines, options.minutes)
    passed = not lines[0].startswith("FAILED")
    print("the soak passed" if passed else "the soak failed")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
