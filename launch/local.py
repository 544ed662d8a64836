"""Runs a training command on this machine, in one process or several, and starts it again when it was stopped or killed.

    python launch/local.py -- python -m neo_jax.train --config=configs/demo.py
    python launch/local.py --processes=4 --devices=2 -- python -m neo_jax.train --config=configs/demo.py

With several processes, each has --devices virtual CPU devices, and they connect over a free port. The output of process 0 is shown unchanged; of
the others, each line of stderr is shown with the process number in front. When one process fails, the others are stopped and all start again.

SIGTERM, SIGINT (Ctrl-C) and SIGHUP are passed on as SIGTERM, unless this program was started with them ignored, as `nohup` and `&` in a script do.
Processes that still run --grace-seconds later are killed. No process outlives this program, not even if it is killed itself.

A run resumes exactly from its last checkpoint, so starting again is always safe. Configuration and data errors, and losses that are not finite,
are not retried. It gives up after RETRIES attempts in a row that wrote no checkpoint, however many made progress before.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

from neo_jax.config import ConfigError, parse_command_line
from neo_jax.config.fields import nearest
from neo_jax.exit_codes import CONFIGURATION, DONE, FINAL, PREEMPTED, TRY_AGAIN
from neo_jax.processes.flags import SECRET

RETRIES = 3
END_SECONDS = 10.0  # that processes have to end by themselves after another of the group did, and again after SIGTERM
GRACE_SECONDS = 120  # that processes have to save and end after a signal to this program: a step and a checkpoint
POLL_SECONDS = 0.05
USAGE = "usage: python launch/local.py [--processes=4 --devices=2] [--grace-seconds=120] -- python -m neo_jax.train --config=FILE ..."

# Leads the process group of an attempt, and kills the group, itself included, when its standard input ends. The launcher holds the other end of
# that pipe: it closes however the launcher dies, and the programs that are launched need not know of it.
GUARD = ("/bin/sh", "-c", "read -r _; kill -KILL 0")


class Group:
    """The running processes of one attempt, in one process group with all that they start themselves."""

    def __init__(self, command: Sequence[str], processes: int, devices: int, log: TextIO | None = None):
        self._running: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._deadline = float("inf")  # when those that still run are ended: by SIGTERM, or killed if they had one
        self._signalled = False
        # A process group of its own: Ctrl-C reaches this program alone, which passes it on as SIGTERM.
        self._guard = subprocess.Popen(GUARD, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0)
        port = free_port()
        # Another at each start. Without `devices` the processes of a run may be on several hosts, and their secret comes from elsewhere.
        environment = os.environ | ({SECRET: secrets.token_hex(32)} if devices else {})
        for number in range(processes):
            flags = [f"--processes={processes}", f"--process={number}", f"--coordinator=127.0.0.1:{port}", f"--cpu-devices={devices}"]
            process = subprocess.Popen(
                [*command, *(flags if devices else [])],
                env=environment,
                stdout=subprocess.DEVNULL if number else log,
                stderr=subprocess.PIPE if number else log,
                text=True,
                errors="replace",
                process_group=self._guard.pid,
            )
            self._running.append(process)
            if number:
                self._readers.append(threading.Thread(target=_show, args=(process, number, log), daemon=True))
                self._readers[-1].start()

    def terminate(self, seconds: float) -> None:
        """Sends SIGTERM to all processes; `wait` kills what still runs so many seconds later. A second call changes nothing."""
        if self._signalled:
            return
        self._signalled, self._deadline = True, time.monotonic() + seconds
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Waits for all processes, stops the others when one fails, and returns the exit code that best explains why they ended."""
        ended: list[int] = []  # codes of those that were not ended by another's failure, in this order
        failed = False  # whether SIGTERM was sent because one of them failed
        while self._running:
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            for process in [process for process in self._running if process.poll() is not None]:
                self._running.remove(process)
                if not failed:
                    ended.append(process.returncode)
                if self._signalled or process.returncode == DONE:
                    continue
                wait = END_SECONDS if process.returncode > 0 else 0.0  # a process that was killed could not tell the others
                self._deadline = min(self._deadline, now + wait)
            if self._running and now > self._deadline:
                if self._signalled:
                    print(f"local: processes still running after SIGTERM, killed: {len(self._running)}", file=sys.stderr, flush=True)
                    self._kill()
                    self._deadline = float("inf")
                else:
                    failed = True
                    self.terminate(END_SECONDS)
        self._kill()  # what they started and left behind
        self._guard.communicate()
        for reader in self._readers:
            reader.join()
        bad = [code for code in ended if code != DONE]
        known = [code for code in (*FINAL, PREEMPTED, TRY_AGAIN) if code in bad]
        code = (known or bad or [DONE])[0]
        return code if code >= 0 else 128 - code  # killed: as a shell says it

    def _kill(self) -> None:
        """Kills the process group. Its number cannot belong to another one: the guard, dead or alive, is waited for last."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)


def _show(process: subprocess.Popen[str], number: int, log: TextIO | None) -> None:
    """Prints the stderr of a process, each line with the process number."""
    assert process.stderr is not None
    for line in process.stderr:
        print(f"[{number}] {line}", end="", file=log or sys.stderr, flush=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def newest_checkpoint(directory: pathlib.Path) -> int:
    """The newest step with a checkpoint in a run directory; -1 where there is none."""
    return max((int(path.name) for path in (directory / "checkpoints").glob("*") if path.name.isdigit()), default=-1)


class Supervised:
    """A command that is run until it ends for good.

    Args:
      command: without the flags of single processes.
      directory: of the run; new checkpoints in it are progress.
      processes: that run it.
      devices: virtual CPU devices of each; 0: one process with the devices that there are.
      grace_seconds: between the SIGTERM of `stop` and the end of what still runs then.
      log: takes what the processes and this supervisor print; None: stdout and stderr do.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: pathlib.Path,
        processes: int = 1,
        devices: int = 0,
        grace_seconds: float = GRACE_SECONDS,
        log: TextIO | None = None,
    ):
        self._command, self._directory, self._processes, self._devices = command, directory, processes, devices
        self._grace_seconds, self._log = grace_seconds, log
        self._stopping = False
        self._group: Group | None = None

    def stop(self) -> None:
        """Sends SIGTERM to all processes, now and at any later start: `run` returns. May be called in a signal handler and in other threads."""
        self._stopping = True
        if self._group is not None:
            self._group.terminate(self._grace_seconds)

    def run(self) -> int:
        """Starts the command until it ends for good; returns its last exit code."""
        failures, progress = 0, newest_checkpoint(self._directory)
        while True:
            self._group = Group(self._command, self._processes, self._devices, self._log)
            if self._stopping:  # while it was being started
                self._group.terminate(self._grace_seconds)
            code = self._group.wait()
            if code in FINAL or self._stopping:
                return code
            newest = newest_checkpoint(self._directory)
            failures = 0 if newest > progress else failures + 1
            progress = newest
            if failures >= RETRIES:
                self._say(f"{RETRIES} attempts in a row wrote no checkpoint (last exit code {code}): given up")
                return code
            reason = "was stopped and saved" if code == PREEMPTED else f"ended with exit code {code}"
            self._say(f"the run {reason}; starting it again from step {max(newest, 0)}")

    def _say(self, sentence: str) -> None:
        print(f"local: {sentence}", file=self._log or sys.stderr, flush=True)


def supervise(
    command: Sequence[str], directory: pathlib.Path, processes: int = 1, devices: int = 0, grace_seconds: float = GRACE_SECONDS
) -> int:
    """Runs a command as Supervised does; SIGTERM, SIGINT and SIGHUP to this program stop it, unless they are ignored (nohup)."""
    supervised = Supervised(command, directory, processes, devices, grace_seconds)
    on_signals(supervised.stop)
    return supervised.run()


def on_signals(stop: Callable[[], None]) -> None:
    """Calls a function on SIGTERM, SIGINT and SIGHUP, but for those that this program was started with ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stop())


def main(arguments: Sequence[str]) -> int:
    if "--" not in arguments or not arguments[arguments.index("--") + 1 :]:
        return _refuse(USAGE)
    place = list(arguments).index("--")
    command = list(arguments[place + 1 :])
    numbers = {"processes": 1, "devices": 0, "grace-seconds": GRACE_SECONDS}
    for argument in arguments[:place]:
        name, _, text = argument.removeprefix("--").partition("=")
        if name not in numbers or not argument.startswith("--"):
            return _refuse(f"{argument}: unknown flag{nearest(name, numbers)}\n{USAGE}")
        if not (text.isascii() and text.isdecimal() and int(text)):
            return _refuse(f"{argument}: must be a whole number of at least 1, as in --{name}=2")
        numbers[name] = int(text)
    if numbers["processes"] > 1 and not numbers["devices"]:
        return _refuse(f"--processes={numbers['processes']} needs --devices: how many virtual CPU devices each of them has")
    try:
        settings = parse_command_line([argument for argument in command if argument.startswith("--config")])
    except ConfigError as error:
        return _refuse(str(error))
    if shutil.which(command[0]) is None:
        return _refuse(f"{command[0]}: no such program: the command after -- begins with a Python, as in {USAGE}")
    return supervise(command, pathlib.Path(settings.run.directory), numbers["processes"], numbers["devices"], numbers["grace-seconds"])


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return CONFIGURATION


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
