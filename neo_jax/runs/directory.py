"""A run directory: its lock, and the configuration that it belongs to.

docs/architecture.md, "What a start resumes from", describes how a start uses it.
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
    """A run directory that cannot be used: it is in use, or its run has another configuration or other data."""


class RunDirectory:
    """The folder of one run, locked by this process inside a `with` block.

    Nothing but the lock is written until `claim`: after a start that fails earlier (a wrong path, unusable data), the folder can still be used with
    another configuration.

    Raises:
      RunDirectoryError: on entering: another process uses the folder, or it holds a run whose order of data or mathematics would differ.
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
                    f"{self.path} holds metrics or checkpoints and no config.json, which describes their run: restore it, or set run.directory "
                    "to a new folder"
                )
            return
        forbidden, self._allowed = config.differences(read_config(path), self._settings.resolved())
        if forbidden:
            raise RunDirectoryError(
                f"{self.path} holds a run with another configuration; these differences change the order of the data or the mathematics:\n  "
                + "\n  ".join(forbidden)
                + "\nset run.directory to a new folder, or undo the changes"
            )

    def claim(self) -> None:
        """Writes the resolved configuration; from then on the folder belongs to this run. Appends allowed changes to config_changes.jsonl."""
        if self._allowed:
            with (self.path / "config_changes.jsonl").open("a") as file:
                file.write(json.dumps({"time": time.time(), "changed": self._allowed}) + "\n")
        write_whole(self.path / "config.json", self._settings.to_json())


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads the resolved configuration of a run. Raises RunDirectoryError if the file is damaged."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}): restore it, or set run.directory to a new folder") from error
    if not isinstance(values, dict):
        raise RunDirectoryError(f"{path} is not a configuration: restore it, or set run.directory to a new folder")
    return values
