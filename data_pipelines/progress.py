"""A progress line on standard error for long work."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator


def progress[T](items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yields the items and reports their number: updates a line on a terminal, else prints a line every ten seconds."""
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 10.0
    began = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= interval:
            shown = now
            left = (now - began) / done * (total - done)
            line = f"{label}: {done:,} of {total:,} ({done / total:.0%}), {done / (now - began):,.0f}/s, {left:.0f} s left"
            print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
    if terminal and shown > began:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
