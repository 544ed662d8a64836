"""Profiler traces of training steps: of a range (run.profile_steps), and of the next few after a SIGUSR1. docs/observe.md: how to read them."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import signal
import threading
from types import FrameType
from typing import Any

import jax

SIGNAL_STEPS = 5  # steps that a signal asks for
FOLDER = "profile"

logger = logging.getLogger(__name__)


class Profiler:
    """Takes traces inside a `with` block, into profile/STEP/ of the run directory. Every process traces its own devices.

    A trace that fails is reported, and the run goes on: nothing of the training depends on it.

    Args:
      directory: the run directory.
      steps: first and last step, counted over the whole run; (): none.
    """

    def __init__(self, directory: pathlib.Path, steps: tuple[int, ...]):
        self._directory, self._steps = directory, steps
        self._asked = False
        self._last: int | None = None  # last step of the trace that is being taken
        self._before: Any = None

    def __enter__(self) -> Profiler:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGUSR1, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)
        self._end()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def step(self, number: int) -> contextlib.AbstractContextManager[Any]:
        """Begins a trace if step `number` is the first of one; returns a block that names the step in it."""
        if self._last is None:
            if self._asked:
                self._begin(number, number + SIGNAL_STEPS - 1)
            elif self._steps and self._steps[0] <= number <= self._steps[1]:
                self._begin(number, self._steps[1])
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def finished(self, number: int) -> None:
        """Ends the trace if step `number`, whose results have arrived, is its last one."""
        if self._last is not None and number >= self._last:
            self._end()

    def _begin(self, first: int, last: int) -> None:
        self._asked, self._last = False, last
        process = f".{jax.process_index()}" if jax.process_count() > 1 else ""  # two processes on a host would name their files alike
        folder = self._directory / FOLDER / f"{first:08d}{process}"
        try:
            jax.profiler.start_trace(folder)
        except Exception as error:  # another profiler is running, or the disk is full
            self._last, self._steps = None, ()
            logger.warning("no trace is taken of steps %d to %d (%s)", first, last, error)
        else:
            logger.info("profiling steps %d to %d into %s", first, last, folder)

    def _end(self) -> None:
        if self._last is None:
            return
        self._last = None
        try:
            jax.profiler.stop_trace()
        except Exception as error:
            logger.warning("the trace is not written (%s)", error)
