"""A run directory: who uses it, and which configuration it belongs to.

How a start decides what to do with it is written in docs/architecture.md ("What a start resumes from").
"""

from __future__ import annotations

import fcntl
import json
import pathlib
import time
from types import TracebackType
from typing import Any, TextIO

from data_pipelines.storage import write_whole
from neo_jax import config


class RunDirectoryError(RuntimeError):
    """A run directory that cannot be used: in use, of another configuration, or over other data."""


class RunDirectory:
    """The folder of one run, held by this process alone between `__enter__` and `__exit__`.

    Nothing but the lock is written until `claim`: a start that fails before (a wrong path, data that cannot be used) leaves the folder free for
    another configuration.

    Raises:
      RunDirectoryError: another process uses it, or it holds a run whose data order or mathematics differ.
    """

    def __init__(self, settings: config.Config):
        self.path = pathlib.Path(settings.run.directory).absolute()
        self._settings = settings
        self._lock: TextIO | None = None
        self._allowed: list[str] = []

    def __enter__(self) -> RunDirectory:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("w")
        except OSError as error:
            raise RunDirectoryError(f"run.directory {self.path} cannot be written ({error.strerror}): set it to another folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RunDirectoryError(f"{self.path} is in use by another process: wait for it, or set run.directory to another one") from None
        try:
            self._check()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.close()

    def _check(self) -> None:
        path = self.path / "config.json"
        if not path.exists():
            if (self.path / "metrics.jsonl").exists() or list((self.path / "checkpoints").glob("[0-9]*")):
                raise RunDirectoryError(
                    f"{self.path} holds metrics or checkpoints and no config.json, which says what they are: put it back, or set run.directory "
                    "to a new folder"
                )
            return
        forbidden, self._allowed = config.differences(read_config(path), self._settings.resolved())
        if forbidden:
            raise RunDirectoryError(
                f"{self.path} holds a run of another configuration; what differs changes data order or mathematics:\n  "
                + "\n  ".join(forbidden)
                + "\nset run.directory to a new one, or take the changes back"
            )

    def claim(self) -> None:
        """Writes the resolved configuration: from now on the folder belongs to this run. Changes that are allowed are recorded."""
        if self._allowed:
            with (self.path / "config_changes.jsonl").open("a") as file:
                file.write(json.dumps({"time": time.time(), "changed": self._allowed}) + "\n")
        write_whole(self.path / "config.json", self._settings.to_json())


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The resolved configuration of a run. Raises RunDirectoryError where the file is damaged."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}): put back what it was, or set run.directory to a new folder") from error
    if not isinstance(values, dict):
        raise RunDirectoryError(f"{path} is not a configuration: put back what it was, or set run.directory to a new folder")
    return values
