"""Processes of a run that are missing, differ, are forged, or are slow."""

from __future__ import annotations

import os
import pathlib
import socket
from typing import Any

from drills.lab import Lab, Run, expect, same
from launch.local import free_port
from neo_jax.processes.flags import SECRET

RIGHT, WRONG = "the secret of these drills", "another secret than the drills'"
SLOW_SECONDS = 0.3  # that each row of the slow process takes


def _member(lab: Lab, folder: pathlib.Path, number: int, port: int, secret: str = RIGHT, *flags: str, **settings: Any) -> Run:
    """Starts one of two processes by hand, as on two hosts."""
    place = ("--processes=2", f"--process={number}", f"--coordinator=127.0.0.1:{port}", "--cpu-devices=1", *flags)
    return lab.train(folder / "run", *place, environment=lab.environment(**{SECRET: secret}), **settings)


def missing_peer(lab: Lab, folder: pathlib.Path) -> str:
    """Process 1 of 2 never comes: 75 and its number; nothing was written."""
    run = _member(lab, folder, 0, free_port(), RIGHT, "--start-seconds=3")
    seconds = run.end(75)
    expect("process 1 of 2 did not reach process 0" in run.said and "Traceback" not in run.said, run.said[-500:])
    expect(not run.directory.exists(), "its directory was made")
    return f"75 after {seconds:.1f} s with a limit of 3 s"


def differing_configuration(lab: Lab, folder: pathlib.Path) -> str:
    """Process 1 has another seed: both end with 78 and name the key; nothing was written."""
    port = free_port()
    runs = [_member(lab, folder, 0, port), _member(lab, folder, 1, port, run__seed=5)]
    for run in runs:
        run.end(78)
        expect("run.seed: 0 -> 5" in run.said and "Traceback" not in run.said, run.said[-500:])
    expect(not runs[0].directory.exists(), "the directory was made")
    return "both name run.seed"


def forged_peer(lab: Lab, folder: pathlib.Path) -> str:
    """Garbage, 3,000 levels of JSON and a process with another secret at process 0's port: each is dropped, the run starts, equal bit for bit."""
    port, undisturbed = free_port(), lab.pair()
    first = _member(lab, folder, 0, port)

    def connected() -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            return None

    connections: list[socket.socket] = []
    first.until(lambda: connections or connections.extend(filter(None, [connected()])), "process 0 listened", 0.05)
    for content in (b"\x00\xff garbage\n", b"[" * 3000 + b"]" * 3000 + b"\n", os.urandom(4096) + b"\n"):
        connection = connected()
        expect(connection, "process 0 listens no more")
        connections.append(connection)
        connection.sendall(content)
    forger = _member(lab, folder, 1, port, WRONG, "--start-seconds=5")
    forger.end(75)
    expect("is not process 0 of this run" in forger.said, f"the forger was not refused: {forger.said[-500:]}")
    expect(first.process.poll() is None, "process 0 has ended")
    true = _member(lab, folder, 1, port)
    true.end(0)
    first.end(0)
    dropped = first.said.count("was dropped")
    expect(dropped >= 4, f"{dropped} connections were dropped and named")
    return f"{dropped} connections dropped; {same(first.directory, undisturbed)}"


def slow_host(lab: Lab, folder: pathlib.Path) -> str:
    """Process 1 of 2 takes 0.3 s longer for each step's rows: named with its time beside the other's, equal bit for bit."""
    undisturbed = lab.pair()
    run = lab.launch(folder / "run", program=("-m", "drills.programs.slow_input", "1", str(SLOW_SECONDS)))
    run.end(0)
    lines = [line for line in run.said.splitlines() if line.startswith("process 1 on ") and " is slow: " in line]
    expect(lines, f"nothing is said of process 1: {run.said[-800:]}")
    expect("process 0 on " not in run.said, "process 0 is called slow")
    return f"{lines[0]}; {same(run.directory, undisturbed)}"


DRILLS = (missing_peer, differing_configuration, forged_peer, slow_host)
