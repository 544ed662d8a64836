"""A program that times another's work on request, so that two environments can take turns: lines over a pipe, nothing but the standard library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

MARK = "worker: "  # before each line that answers: libraries may print lines of their own


class WorkerError(RuntimeError):
    """A worker ended before it answered."""


class Worker:
    """A started program that runs `serve`."""

    def __init__(self, command: Sequence[str]):
        self._command = command
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self) -> str:
        """Returns the next answer. Raises WorkerError if the program ends instead."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return line.removeprefix(MARK).strip()
        raise WorkerError(f"{' '.join(self._command)} ended with exit code {self._process.wait()}; its output says why")

    def seconds(self, name: str, steps: int) -> float:
        """Returns the seconds that `steps` steps of the timer `name` took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {steps}\n")
        self._process.stdin.flush()
        return float(self.answer())

    def close(self) -> None:
        """Ends the program."""
        self._process.communicate()


def serve(timers: Mapping[str, Callable[[int], float]]) -> None:
    """Says that the program is ready; then runs a timer for each line "NAME STEPS" until standard input ends."""
    print(f"{MARK}ready", flush=True)
    for line in sys.stdin:
        name, steps = line.split()
        print(f"{MARK}{timers[name](int(steps))}", flush=True)
