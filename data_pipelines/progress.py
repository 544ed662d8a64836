"""A progress line on standard error for long work."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator


def progress[T](items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yields the items and reports their number, as `counter` does."""
    with counter(total, label) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)


@contextlib.contextmanager
def counter(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Gives a function that reports how much of the total is done: updates a line on a terminal, else prints a line every ten seconds."""
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 10.0
    began = shown = time.monotonic()

    def show(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < interval or not done:
            return
        shown = now
        left = (now - began) / done * (total - done)
        line = f"{label}: {done:,} of {total:,} ({done / total:.0%}), {done / (now - began):,.0f}/s, {left:.0f} s left"
        print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    yield show
    if terminal and shown > began:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
