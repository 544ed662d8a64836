"""Locks between processes and hosts that share a disk. The operating system releases a lock when its process ends, even if it is killed."""

from __future__ import annotations

import fcntl
import os
import pathlib
import time

from data_pipelines.schema import DataError

_POLL_SECONDS = 0.1


class FileLock:
    """A lock on a file. The folder is created if missing. The file stays after release, empty."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Takes the lock if it is free, and returns whether it was. Raises DataError if the file cannot be written or the disk has no locks."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise DataError(
                f"cannot write the index {self._path.parent} ({error}): make room for it, or name another index_folder"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except OSError as error:
            os.close(file)
            raise DataError(f"the file system of {self._path} has no locks ({error}): name an index_folder on another one") from error
        self._file = file
        return True

    def is_free(self) -> bool:
        """Returns True if nobody holds the lock now."""
        if self.acquire():
            self.release()
            return True
        return False

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def wait() -> None:
    """Sleeps for _POLL_SECONDS, before a lock is tried again."""
    time.sleep(_POLL_SECONDS)
