"""Copies of a run directory on slower storage (run.copies): written behind the training, read by a start whose run directory is empty.

ADDRESS/checkpoints/STEP   checkpoints, the newest KEPT
ADDRESS/...                the other files of the run directory
ADDRESS/complete.json      written last: the step whose copy is complete, and the sizes of its files
"""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
import threading
import time
from typing import Any, NamedTuple

from pyarrow import fs

from data_pipelines.storage.copying import file_system, sizes

KEPT = 2  # copies of checkpoints
POLL_SECONDS = 0.2  # between looks whether a checkpoint is complete
COMPLETE = "complete.json"
LEFT_OUT = ("checkpoints", "compilation_cache", "profile", "lock")  # of the run directory's entries: the first is copied step by step


class Copies:
    """Copies checkpoints of one run in a thread. A copy that fails is reported, and the next checkpoint is copied anew: training goes on.

    Args:
      address: folder, local or in an object store; "": nothing is copied.
      directory: the run directory.
    """

    def __init__(self, address: str, directory: pathlib.Path):
        self._address, self._directory = address, directory
        self._thread: threading.Thread | None = None
        self._wanted: _Wanted | None = None  # the newest checkpoint that is to be copied
        self._closing = False
        self._changed = threading.Lock()

    def start(self, step: int) -> None:
        """Copies a checkpoint that is about to be written, once it is complete and the copy that is being made has ended."""
        if not self._address:
            return
        with self._changed:
            folder = self._directory / "checkpoints" / str(step)
            self._wanted = _Wanted(step, folder, _identity(folder))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="copies of checkpoints", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Waits until the newest checkpoint is copied, if it is complete."""
        self._closing = True
        if (thread := self._thread) is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                wanted = self._wanted
                complete = wanted is not None and wanted.is_complete()
                if wanted is None or (self._closing and not complete):
                    self._thread = None
                    return
                if complete:
                    self._wanted = None
            if not complete:  # its write goes on, or failed and the run ends
                time.sleep(POLL_SECONDS)
                continue
            try:
                copy(self._directory, self._address, wanted.step)
            except OSError as error:
                logging.warning(
                    "the copy of checkpoint %d to %s failed (%s); the next one is tried anew", wanted.step, self._address, error
                )


class _Wanted(NamedTuple):
    """A checkpoint that is written: its step, its folder, and what stood there before."""

    step: int
    folder: pathlib.Path
    before: int | None

    def is_complete(self) -> bool:
        """Returns whether it is there: Orbax writes to another folder, which it renames in the end."""
        return _identity(self.folder) not in (None, self.before)


def _identity(folder: pathlib.Path) -> int | None:
    """Returns a number that another folder in the same place does not have; None if there is none."""
    return folder.stat().st_ino if folder.exists() else None


def copy(directory: pathlib.Path, address: str, step: int) -> None:
    """Copies a checkpoint and the other files of a run directory. Raises OSError."""
    system, root = file_system(address)
    local = fs.LocalFileSystem()
    for entry in sorted(directory.iterdir()):
        if entry.name not in LEFT_OUT and not entry.name.startswith("quarantine-"):
            _put(local, str(entry), system, f"{root}/{entry.name}")
    source, target = directory / "checkpoints" / str(step), f"{root}/checkpoints/{step}"
    _put(local, str(source), system, target)
    wanted = sizes(local, str(source))
    if (found := sizes(system, target)) != wanted:
        raise OSError(f"{address}/checkpoints/{step} has other files than the checkpoint: {sorted(wanted.items() ^ found.items())[:3]}")
    with system.open_output_stream(f"{root}/{COMPLETE}") as file:
        file.write(json.dumps({"step": step, "files": wanted}).encode())
    steps = {int(name) for path in sizes(system, f"{root}/checkpoints") if (name := path.split("/")[0]).isdigit()}
    for old in sorted(steps)[:-KEPT]:
        system.delete_dir(f"{root}/checkpoints/{old}")


def fetch(address: str, directory: pathlib.Path) -> int | None:
    """Copies a run back into a run directory that holds none; returns the step of its checkpoint, or None if there was nothing to do.

    Raises:
      OSError: the copy cannot be read, or is not whole.
    """
    if not address or (directory / "config.json").exists() or any((directory / "checkpoints").glob("[0-9]*")):
        return None
    system, root = file_system(address)
    if system.get_file_info(f"{root}/{COMPLETE}").type == fs.FileType.NotFound:
        return None
    try:
        with system.open_input_stream(f"{root}/{COMPLETE}") as file:
            complete: dict[str, Any] = json.loads(file.read())
        step, wanted = int(complete["step"]), dict(complete["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"{address}/{COMPLETE} is damaged ({error})") from None
    local = fs.LocalFileSystem()
    partial = directory / f".fetched-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    _put(system, f"{root}/checkpoints/{step}", local, str(partial))
    if sizes(local, str(partial)) != wanted:
        raise OSError(f"{address}/checkpoints/{step} is not whole")
    others = {path.split("/")[0] for path in sizes(system, root)} - {"checkpoints", COMPLETE}
    for name in sorted(others - {"config.json"}):
        _put(system, f"{root}/{name}", local, str(directory / name))
    (directory / "checkpoints").mkdir(exist_ok=True)
    partial.rename(directory / "checkpoints" / str(step))
    _put(system, f"{root}/config.json", local, str(directory / "config.json"))  # last: without it, the next start fetches again
    return step


def _put(source_system: fs.FileSystem, source: str, target_system: fs.FileSystem, target: str) -> None:
    """Copies a file, or a folder with all that it holds."""
    is_folder = source_system.get_file_info(source).type == fs.FileType.Directory
    if is_folder or isinstance(target_system, fs.LocalFileSystem):
        target_system.create_dir(target if is_folder else str(pathlib.PurePosixPath(target).parent), recursive=True)
    fs.copy_files(source, target, source_filesystem=source_system, destination_filesystem=target_system)
