"""The progress of a run on the console."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from data_pipelines.printable import printable
from neo_jax import config
from neo_jax.runs.metrics import StepRecord
from neo_jax.training.throughput import Speed


class Progress:
    """Shows progress in one line.

    Args:
      stream: where the line goes. A terminal has the line rewritten in place; any other stream gets a new line every `interval` seconds.
      interval: seconds.
      silent: prints nothing; for all processes but process 0.
    """

    def __init__(self, stream: TextIO = sys.stderr, interval: float = 15.0, silent: bool = False):
        self._stream, self._interval, self._silent = stream, interval, silent
        self._live, self._last = stream.isatty(), 0.0

    def show(self, text: str) -> None:
        """Shows a text in the progress line; skipped if the last one was shown too short a time ago."""
        if self._silent:
            return
        now = time.monotonic()
        if self._live and now - self._last > 0.2:
            print("\r\x1b[2K" + text, end="", file=self._stream, flush=True)
            self._last = now
        elif not self._live and now - self._last > self._interval:
            print(text, file=self._stream, flush=True)
            self._last = now

    def line(self, text: str) -> None:
        """Prints a line that is not rewritten."""
        if self._silent:
            return
        print(("\r\x1b[2K" if self._live else "") + printable(text, keep="\n"), file=self._stream, flush=True)


def step_line(phase: config.Phase, phase_step: int, record: StepRecord, speed: Speed | None) -> str:
    """Returns the progress line of a step: loss, gradient norm, learning rate, fill of the rows, speed, share of the time spent waiting for
    rows, time left in the phase.

    Args:
      speed: None if it is not known yet.
    """
    text = f"{phase.name} {phase_step}/{phase.steps}  loss {record.loss:.3f}  gradient {record.gradient_norm:.2f}"
    text += f"  rate {record.learning_rate:.1e}  fill {record.fill:.1%}"
    if speed is not None:
        seconds = int(speed.seconds_per_step * (phase.steps - phase_step))
        text += f"  {speed.tokens_per_second:,.0f} tokens/s"
        text += f"  input {speed.input_wait:.0%}"
        text += f"  MFU {speed.mfu:.1%}" if speed.mfu is not None else ""
        text += f"  {seconds // 60}:{seconds % 60:02d} left"
    if record.heldout_loss:
        losses = list(record.heldout_loss.values())
        text += f"  held-out {sum(losses) / len(losses):.3f}"
    return text
