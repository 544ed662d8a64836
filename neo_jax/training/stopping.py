"""How a run ends early: a signal asks it to stop, or its data stalls."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax

from neo_jax import exit_codes
from neo_jax.processes import exchange, lifetime

WATCH_SECONDS = 1.0  # between checks of the deadline


class Preempted(Exception):
    """SIGTERM or Ctrl-C arrived; everything up to the last step is saved.

    Attributes:
      agreed: True if all processes of the run stop at the same point; False if only this process has stopped and the others wait for it.
    """

    def __init__(self, message: str, agreed: bool = True):
        super().__init__(message)
        self.agreed = agreed


class StopSignal:
    """Records SIGTERM and Ctrl-C inside a `with` block. The run calls `reached` where stopping loses nothing. A second Ctrl-C interrupts at once.

    In a run of several processes jax handles SIGTERM. Each process counts its calls of `reached`; once any process has received the signal, they
    agree to stop at the lowest count that none of them has reached yet.
    """

    def __init__(self) -> None:
        self.requested = False
        self._alone = jax.process_count() == 1
        self._calls = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if self._alone and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def reached(self) -> bool:
        """Returns whether to stop here; the same in every process, provided that all have called it equally often."""
        self._calls += 1
        if not self._alone and not self.requested:
            self.requested = exchange.stop_agreed(self._calls)
        return self.requested

    def align(self) -> None:
        """Sets the call count of every process to the largest one. Called by all processes after they have called `reached` unequally often."""
        self._calls = max(exchange.gather(self._calls))

    def check(self, doing: str) -> None:
        """Raises Preempted if a stop was requested; the message names the interrupted work, `doing`."""
        if self.reached():
            raise Preempted(f"stopped while {doing}; nothing is lost: the same command continues from there")


class StallGuard:
    """Ends the process with exit code TRY_AGAIN if it makes no progress for too long: a dead file system, a device or another process that hangs.

    A blocked call cannot be interrupted from Python. Therefore a thread prints the stacks of all threads and ends the process.

    Args:
      seconds: longest time without progress in reading data (data.stall_seconds).
      hang_seconds: the same for everything else (run.hang_seconds).
      end: called with a message instead of ending the process, for tests.
    """

    def __init__(self, seconds: float, hang_seconds: float, end: Callable[[str], None] | None = None):
        self._data_seconds, self._hang_seconds = seconds, hang_seconds
        self._end = end or _end_process
        self._doing, self._deadline, self._seconds, self._advice = "", float("inf"), seconds, ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall guard", daemon=True)

    def __enter__(self) -> StallGuard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    @contextlib.contextmanager
    def watching(self, doing: str) -> Iterator[None]:
        """Watches a `with` block that reads data: `beat` must be called, or the block end, within the time limit. Blocks do not nest."""
        with self._watching(doing, self._data_seconds, "(data.stall_seconds)", "Is the file system of the data alive?"):
            yield

    @contextlib.contextmanager
    def watching_devices(self, doing: str) -> Iterator[None]:
        """The same of a block that waits for devices, other processes or checkpoints."""
        with self._watching(doing, self._hang_seconds, "(run.hang_seconds)", "Does a device, another process or the file system hang?"):
            yield

    @contextlib.contextmanager
    def _watching(self, doing: str, seconds: float, key: str, question: str) -> Iterator[None]:
        self._doing, self._seconds = doing, seconds
        self._advice = f"{key}; the stacks of all threads are printed above. {question}"
        self.beat()
        try:
            yield
        finally:
            self._deadline = float("inf")

    def beat(self) -> None:
        """Reports progress: the time limit begins anew."""
        self._deadline = time.monotonic() + self._seconds

    def _watch(self) -> None:
        while not self._closed.wait(min(WATCH_SECONDS, self._data_seconds / 4, self._hang_seconds / 4)):
            if time.monotonic() > self._deadline:
                self._deadline = float("inf")
                self._end(
                    f"{self._doing}: no progress for {self._seconds:.0f} s {self._advice} The same command continues from the last checkpoint"
                )


def _end_process(message: str) -> None:
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    print(f"\n{message}", file=sys.stderr, flush=True)
    lifetime.leave(exit_codes.TRY_AGAIN, message)
