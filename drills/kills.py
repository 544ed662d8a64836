"""Processes that die: a worker, the coordinator, all, the launcher; in steps, in a save, at the edges of phases and epochs."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import time

from drills.lab import Lab, Run, being_saved, expect, gone, kill, last_step, members, records, same, saved, slowness, state_of
from drills.tiny import STEPS, TOTAL

GROUP_SECONDS, ALONE_SECONDS = 60, 10  # from a death to training again, with a warm compile cache, on an idle machine


def trains_again(run: Run, limit: float, slow: float) -> str:
    """Waits until a launched run, of which a process has just died, has done a new step; returns the seconds, and fails above the limit."""
    began, starts = time.monotonic(), run.said.count("starting it again")
    path = run.directory / "metrics.jsonl"
    before = path.stat().st_ino if path.exists() else 0  # a start writes a new file
    run.until(lambda: run.said.count("starting it again") > starts, "it was started again", 0.01)
    resumed = max(saved(run.directory), default=0)
    run.until(lambda: path.exists() and path.stat().st_ino != before and last_step(run.directory) > resumed, "it trained again", 0.01)
    seconds = time.monotonic() - began
    expect(seconds <= limit * slow, f"{seconds:.0f} s to training again, above {limit} s x load {slow:.1f}")
    return f"{seconds:.1f} s to training again"


def _kill_member(lab: Lab, folder: pathlib.Path, number: int) -> str:
    undisturbed, slow = lab.pair(), slowness()
    run = lab.launch(folder / "run")
    run.until_step(STEPS["text"] + 3)
    kill(members(run)[number])
    figure = trains_again(run, GROUP_SECONDS, slow)
    run.end(0)
    expect("ended with exit code 137" in run.said, "the launcher does not say that a process was killed")
    return f"{figure}; {same(run.directory, undisturbed)}"


def kill_worker(lab: Lab, folder: pathlib.Path) -> str:
    """kill -9 of worker 1 of 2: training again within 60 s, the end equals the undisturbed run's bit for bit."""
    return _kill_member(lab, folder, 1)


def kill_coordinator(lab: Lab, folder: pathlib.Path) -> str:
    """kill -9 of process 0 of 2: training again within 60 s, equal bit for bit."""
    return _kill_member(lab, folder, 0)


def kill_all(lab: Lab, folder: pathlib.Path) -> str:
    """kill -9 of both processes at once: training again within 60 s, equal bit for bit."""
    undisturbed, slow = lab.pair(), slowness()
    run = lab.launch(folder / "run")
    run.until_step(STEPS["text"] + 3)
    found = members(run)
    expect(len(found) == 2, f"there are {len(found)} processes")
    for pid in found.values():
        os.kill(pid, signal.SIGKILL)
    figure = trains_again(run, GROUP_SECONDS, slow)
    expect(all(gone(pid) for pid in found.values()), "a killed process is there")
    run.end(0)
    return f"{figure}; {same(run.directory, undisturbed)}"


def kill_alone(lab: Lab, folder: pathlib.Path) -> str:
    """kill -9 of a run of one process: training again within 10 s, equal bit for bit."""
    undisturbed, slow = lab.undisturbed(), slowness()
    run = lab.launch(folder / "run", 1, 0)
    run.until_step(STEPS["text"] + 3)
    kill(members(run)[0])
    figure = trains_again(run, ALONE_SECONDS, slow)
    run.end(0)
    return f"{figure}; {same(run.directory, undisturbed)}"


def _kill_saving(lab: Lab, folder: pathlib.Path, undisturbed: pathlib.Path, processes: int, devices: int) -> str:
    """Kills the first process with a half-written checkpoint; tries again where the save was faster than this program."""
    for attempt in range(1, 11):
        run = lab.launch(folder / f"run{attempt}", processes, devices)
        run.until_saving(STEPS["text"] + 4)
        pids = list(members(run).values())
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        step = max(being_saved(run.directory), default=0)
        if step:
            kill(pids[0])
            expect(step in being_saved(run.directory) and step not in saved(run.directory), "the save was complete")
            for pid in pids[1:]:
                os.kill(pid, signal.SIGCONT)
            run.end(0)
            expect(f"resumed after step {step - 2}" in run.said, "it did not resume from the checkpoint before")
            expect(not being_saved(run.directory), "a part of the checkpoint is left")
            return f"killed with the half-written checkpoint of step {step}; {same(run.directory, undisturbed)}"
        run.stop_all()
    expect(False, "no kill hit a save in 10 attempts")
    return ""


def kill_saving(lab: Lab, folder: pathlib.Path) -> str:
    """kill -9 while a checkpoint is half written: the one before is used, leftovers are removed, equal bit for bit."""
    return _kill_saving(lab, folder, lab.undisturbed(), 1, 0)


def kill_saving_pair(lab: Lab, folder: pathlib.Path) -> str:
    """The same with two processes, of which one is killed."""
    return _kill_saving(lab, folder, lab.pair(), 2, 1)


def kill_launcher(lab: Lab, folder: pathlib.Path) -> str:
    """kill -9 of the launcher: no process outlives it; the same command goes on, equal bit for bit."""
    undisturbed = lab.pair()
    run = lab.launch(folder / "run")
    run.until_step(STEPS["text"] + 3)
    found = members(run)
    run.kill()
    began = time.monotonic()
    while not all(gone(pid) for pid in found.values()):
        expect(time.monotonic() - began < 10, "a process outlives the launcher by 10 s")
        time.sleep(0.01)
    seconds = time.monotonic() - began
    again = lab.launch(run.directory)
    again.end(0)
    expect("resumed after step" in again.said, "it began anew")
    return f"processes gone after {seconds:.2f} s; {same(run.directory, undisturbed)}"


def stopped_worker(lab: Lab, folder: pathlib.Path) -> str:
    """SIGSTOP of worker 1 of 2: noticed by its missing heartbeat, training again within 120 s, equal bit for bit."""
    undisturbed, slow = lab.pair(), slowness()
    run = lab.launch(folder / "run")
    run.until_step(STEPS["text"] + 3)
    pid = members(run)[1]
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while state_of(pid) != "T":
        expect(time.monotonic() < deadline, "the worker was not stopped")
    figure = trains_again(run, 2 * GROUP_SECONDS, slow)  # 30 s without heartbeat come first
    run.end(0)
    expect(gone(pid), "the stopped process is still there")
    return f"{figure}; {same(run.directory, undisturbed)}"


def phase_edge(lab: Lab, folder: pathlib.Path) -> str:
    """kill -9 between the last save of a phase and the first step of the next: equal bit for bit."""
    undisturbed, edge = lab.undisturbed(), STEPS["text"]
    run = lab.launch(folder / "run", 1, 0)
    run.until_saved(edge)
    pid = members(run)[0]
    kill(pid)
    expect(last_step(run.directory) == edge, f"it was killed at step {last_step(run.directory)}, not at the edge")
    run.end(0)
    expect(f"resumed after step {edge}, in phase text" in run.said, "it did not resume at the edge")
    return f"killed after step {edge}; {same(run.directory, undisturbed)}"


def epoch_edge(lab: Lab, folder: pathlib.Path) -> str:
    """kill -9 in the step in which a source's second epoch begins: the same rows, equal bit for bit."""
    few = folder / "few.jsonl"
    few.write_text("".join((lab.root / "corpus/train/text.jsonl").read_text().splitlines(keepends=True)[:24]))
    settings = {"data__sources__text__path": few, "curriculum": "text", "phases__text__steps": 12, "data__index_folder": folder / "index"}
    log = folder / "rows.jsonl"
    undisturbed = lab.train(folder / "undisturbed", program=("-m", "drills.programs.rows", str(log)), **settings)
    undisturbed.end(0)
    seen: set[str] = set()
    edge = 0
    for row in map(json.loads, log.read_text().splitlines()):
        if not edge and seen & set(row["samples"]):
            edge = row["step"]
        seen |= set(row["samples"])
    expect(1 < edge < 12, f"the second epoch begins in step {edge}")
    run = lab.launch(folder / "run", 1, 0, **settings)
    run.until_step(edge)
    kill(members(run)[0])
    expect(edge <= last_step(run.directory) < 12, "it was killed too late")
    run.end(0)
    return f"{len(seen)} samples, second epoch in step {edge}; {same(run.directory, undisturbed.directory)}"


def crash_loop(lab: Lab, folder: pathlib.Path) -> str:
    """A process that dies before every first save: given up after three starts without progress."""
    run = lab.launch(folder / "run", 1, 0, run__checkpoint_every=100, phases__text__steps=100)
    killed: set[int] = set()
    while run.process.poll() is None:
        for pid in set(members(run).values()) - killed:
            if last_step(run.directory) >= 1 or killed:
                kill(pid)
                killed.add(pid)
        time.sleep(0.01)
    run.end(137)
    expect(len(killed) == 3, f"{len(killed)} starts were killed")
    expect("3 attempts in a row wrote no checkpoint (last exit code 137): given up" in run.said, "it does not say that it gives up")
    return "given up after 3 starts"


def sweep_driver(lab: Lab, folder: pathlib.Path) -> str:
    """kill -9 of a sweep's driver: its runs end with it; the same command goes on, each run equal to the undisturbed one of its setting."""
    sweep = folder / "few.py"
    sweep.write_text(
        '"""Does the driver survive?"""\n'
        f"CONFIG = {str(pathlib.Path(__file__).parent / 'tiny.py') + ':' + str(lab.root)!r}\n"
        "def sweep():\n    return [{'run.seed': seed} for seed in (0, 1)]\n"
    )
    command = [sys.executable, "-m", "launch.sweep", "run", str(sweep), f"--folder={folder / 'sweeps'}"]
    first = lab.start(command, folder / "sweeps")

    def directories() -> list[pathlib.Path]:
        return sorted(path.parent for path in (folder / "sweeps").rglob("metrics.jsonl"))

    first.until(lambda: any(last_step(each) >= 9 for each in directories()), "step 9 of a run was logged")
    pids = [pid for pid in members(first).values()]
    expect(pids, "the driver has no run")
    first.kill()
    began = time.monotonic()
    while not all(gone(pid) for pid in pids):
        expect(time.monotonic() - began < 10, "a run outlives the driver by 10 s")
        time.sleep(0.01)
    expect(any(0 < last_step(each) < TOTAL for each in directories()), "no run was cut")
    second = lab.start(command, folder / "sweeps")
    second.end(0)
    runs = {json.loads((each / "config.json").read_text())["run"]["seed"]: each for each in directories()}
    expect(sorted(runs) == [0, 1], f"runs of seeds {sorted(runs)}")
    expect(all(len(records(each)) == TOTAL for each in runs.values()), "a run is not complete")
    return f"2 runs; seed 0: {same(runs[0], lab.undisturbed())}"


DRILLS = (
    kill_worker, kill_coordinator, kill_all, kill_alone, kill_saving, kill_saving_pair, kill_launcher, stopped_worker, phase_edge, epoch_edge,
    crash_loop, sweep_driver,
)  # fmt: skip
