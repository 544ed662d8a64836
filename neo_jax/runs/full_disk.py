"""A disk without space: its error, which libraries wrap in their own, and what they print beside it."""

from __future__ import annotations

import errno
import functools
import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_is_full(error: BaseException | None) -> bool:
    """Returns whether an error, or one that it came from, says that there is no space left, or that a quota is used up."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # TensorStore raises ValueError, with the system's number in its text
        if (isinstance(error, OSError) and error.errno in FULL) or any(f"[os_error_code='{number}']" in str(error) for number in FULL):
            return True
        if isinstance(error, BaseExceptionGroup) and any(map(disk_is_full, error.exceptions)):
            return True
        error = error.__cause__ or error.__context__
    return False


@functools.cache
def drop_closed_loops() -> None:
    """From now on, tracebacks of writes that end when Orbax has given up their event loop are not printed.

    Of a checkpoint's parallel writes the first that fails ends the save and closes the loop. Each other one then reports to the closed loop, from a
    thread of TensorStore, which prints the error: up to dozens of tracebacks around the one sentence that says why the run ends.
    """
    shown = sys.unraisablehook

    def hook(raised: UnraisableHookArgs) -> None:
        error, traceback = raised.exc_value, raised.exc_traceback
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed" and traceback and _begins_in_asyncio(traceback)):
            shown(raised)

    sys.unraisablehook = hook


def _begins_in_asyncio(traceback: TracebackType) -> bool:
    return traceback.tb_frame.f_code.co_name == "call_soon_threadsafe"
