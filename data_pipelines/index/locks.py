"""Locks between processes and hosts that share a disk. The system opens a lock when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import pathlib
import time

from data_pipelines.schema import DataError

_POLL_SECONDS = 0.1


class FileLock:
    """The lock that a file stands for; its folder is made when missing. The file stays, empty."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Takes the lock, and says whether it was free. Raises DataError where the file cannot be written or the disk has no locks."""
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
        """Whether no other holds it now."""
        if self.acquire():
            self.release()
            return True
        return False

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def wait() -> None:
    """Passes a moment before a lock is tried again."""
    time.sleep(_POLL_SECONDS)
