"""One line on the console that shows where a run stands."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """One line that is rewritten on a terminal, and printed every `interval` seconds elsewhere; silent in all processes but the first."""

    def __init__(self, stream: TextIO = sys.stderr, interval: float = 15.0, silent: bool = False):
        self._stream, self._interval, self._silent = stream, interval, silent
        self._live, self._last = stream.isatty(), 0.0

    def show(self, text: str) -> None:
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
        """A line that stays."""
        if self._silent:
            return
        print(("\r\x1b[2K" if self._live else "") + text, file=self._stream, flush=True)
