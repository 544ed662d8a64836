"""Copies folders between disks and object stores, with pyarrow's file systems (gcsfs for gs://)."""

from __future__ import annotations

import os
import pathlib

from pyarrow import fs

from data_pipelines.storage.interface import StorageError, is_remote
from data_pipelines.storage.s3 import s3_client

ATTEMPTS = 5  # of a request to S3; gcsfs has its own


def file_system(address: str) -> tuple[fs.FileSystem, str]:
    """Returns the file system of an address, a local path or s3://BUCKET/KEY or gs://BUCKET/KEY, and the path within it.

    Raises:
      StorageError: gcsfs is not installed.
    """
    if not is_remote(address):
        return fs.LocalFileSystem(), str(pathlib.Path(os.path.expanduser(address)).absolute())
    scheme, _, path = address.partition("://")
    path = path.strip("/")
    if scheme == "s3":
        return s3_client(path.partition("/")[0], ATTEMPTS), path
    try:
        import gcsfs
    except ImportError:
        raise StorageError("unreadable_file", f"{address}: gs:// needs gcsfs: pip install -r requirements-cloud.txt") from None
    return fs.PyFileSystem(fs.FSSpecHandler(gcsfs.GCSFileSystem())), path


def sizes(system: fs.FileSystem, folder: str) -> dict[str, int]:
    """Returns the size of every file in a folder and its subfolders, by its path within the folder; a missing folder has none. Raises OSError."""
    found = system.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(folder).strip("/"): info.size for info in found if info.type == fs.FileType.File}
