"""Resolves the paths in settings and rows: the home folder, media_root, and the check that media files are within it."""

from __future__ import annotations

import functools
import os
import pathlib
import posixpath
import unicodedata

from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.storage.files import Whole
from data_pipelines.storage.interface import is_remote


def local_path(text: str, setting: str) -> pathlib.Path:
    """Returns a path of the configuration with a leading `~` replaced by the home folder, which shells do not do after an equals sign.

    `setting` names the setting in the message. Raises DataError for the home folder of an unknown user.
    """
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"{setting} {text}: {error}; write the folder out") from error


def one_path(settings: SourceSettings) -> str:
    """Returns the only path of a source. Raises DataError if it has several."""
    if len(settings.paths) != 1:
        raise DataError(f"source {settings.name!r}: path names {len(settings.paths)} folders: make a source of each")
    return settings.paths[0]


_FOLDERS = 4096  # maximum number of a source's folders whose resolved paths are cached


class MediaRoot:
    """The folder, on a disk or in an object store, to which the media paths of a source are relative and which they may not leave.

    Links may lead to other places in it. If it is a snapshot in the cache of a hub client, they may also lead to the `blobs` of that download.

    Raises:
      DataError: media_root is not a folder.
    """

    def __init__(self, settings: SourceSettings):
        self._source = settings.name
        self._given = settings.media_root
        self._root: pathlib.Path | None = None
        self._store = settings.media_root.rstrip("/") if is_remote(settings.media_root) else ""
        if not settings.media_root or self._store:
            return
        root = local_path(settings.media_root, f"source {settings.name!r}: media_root")
        if not root.is_dir():
            raise DataError(f"source {settings.name!r}: media_root {root} is not a folder; set it to the folder of the media files")
        self._root = root.resolve()
        self._prefix = f"{self._root}/"
        self._allowed = [self._root, *_blobs(self._root)]
        # A folder is resolved once, not for each of its files: resolving takes a system call for each part of the path.
        self._resolved_folder = functools.lru_cache(_FOLDERS)(self._resolve_folder)

    def find(self, name: str, key: str) -> str | Whole:
        """Returns the file or object that a row names, by a path relative to the root or an absolute path within it; it need not exist.

        A file is also found if its name differs only in Unicode composition, as in archives made on macOS.
        Raises SampleError "bad_record" if the source has no media_root, "path_escapes_root" for a file outside of it, "unreadable_file" for a
        path that cannot be resolved.
        """
        if self._store:
            return self._find_object(name, key)
        if self._root is None:
            raise SampleError("bad_record", f"{key}: names the file {name!r}, but source {self._source!r} has no media_root; set it")
        path = self._resolve(name if name.startswith("/") else self._prefix + name, name, key)
        if not name.isascii() and not os.path.exists(path) and (composed := _other_composition(self._root, name)) is not None:
            return self._resolve(str(composed), name, key)
        return path

    def _find_object(self, name: str, key: str) -> Whole:
        path = posixpath.normpath(name)
        if path.startswith(("/", "../")) or path == "..":
            raise SampleError(
                "path_escapes_root", f"{key}: the file {name!r} lies outside of media_root {self._given}: name it relative to that"
            )
        return Whole(f"{self._store}/{path}")

    def _resolve_folder(self, folder: str) -> str:
        """Returns the path of a folder with links resolved; "" if it is outside of the root."""
        resolved = pathlib.Path(folder).resolve()
        return str(resolved) if any(map(resolved.is_relative_to, self._allowed)) else ""

    def _resolve(self, path: str, name: str, key: str) -> str:
        try:
            folder, _, file = path.rpartition("/")
            if (
                file not in ("", ".", "..")
                and (inside := self._resolved_folder(folder))
                and not os.path.islink(place := f"{inside}/{file}")
            ):
                return place
            resolved = pathlib.Path(path).resolve()
        except (OSError, RuntimeError) as error:  # for example a cycle of links
            raise SampleError("unreadable_file", f"{key}: the file {name!r} cannot be found ({error})") from error
        if any(map(resolved.is_relative_to, self._allowed)):
            return str(resolved)
        if pathlib.Path(os.path.normpath(path)).is_relative_to(self._allowed[0]):
            raise SampleError(
                "path_escapes_root",
                f"{key}: the file {name!r} is a link that leads to {resolved}, outside of media_root {self._given}: put the file itself "
                "there, or set media_root to a folder that holds both",
            )
        raise SampleError(
            "path_escapes_root",
            f"{key}: the file {name!r} lies outside of media_root {self._given}: move it there, or set media_root to a folder that holds it",
        )


def _blobs(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns DOWNLOAD/blobs for a root in a hub snapshot, DOWNLOAD/snapshots/REVISION/...: the folder to which the snapshot's links lead."""
    return [folder.parent.parent / "blobs" for folder in (root, *root.parents) if folder.parent.name == "snapshots"]


def _other_composition(root: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns an existing path whose parts have the same characters, composed or decomposed; None if there is none."""
    path = root
    for part in pathlib.PurePath(name).parts:
        spellings = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        found = next((path / spelling for spelling in spellings if os.path.lexists(path / spelling)), None)
        if found is None:
            return None
        path = found
    return path
