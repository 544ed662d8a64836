"""Recognises the error of a disk without space, which libraries wrap in their own."""

from __future__ import annotations

import errno

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
