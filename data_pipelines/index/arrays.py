"""Files of named arrays: written atomically, verified by a checksum, and bound to a fingerprint of what they were computed from."""

from __future__ import annotations

import hashlib
import io
import pathlib
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.schema import DataError
from data_pipelines.storage import write_whole

Arrays = Mapping[str, npt.NDArray[Any]]


def save(path: pathlib.Path, arrays: Arrays, fingerprint: str) -> None:
    """Writes arrays with a checksum; the folder is created if missing. Raises DataError if the file cannot be written."""
    content = io.BytesIO()
    checked = dict(arrays) | {"fingerprint": np.array(fingerprint)}
    np.savez(content, allow_pickle=False, **checked, checksum=np.array(digest(checked)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getbuffer())
    except OSError as error:
        raise DataError(f"cannot write the index {path} ({error}): make room for it, or name another index_folder") from error


def load(path: pathlib.Path, fingerprint: str) -> dict[str, npt.NDArray[Any]] | None:
    """Returns the arrays of a file; None if it is missing, if its fingerprint differs or if it is damaged.

    Damage is reported on standard error. Raises DataError for a file that exists and cannot be read.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"cannot read the index {path} ({error}): make it readable, or delete it to build it again") from error
    arrays = _checked(content)
    if arrays is None:
        print(f"the index {path} is damaged: it is built again (deleting it does the same)", file=sys.stderr, flush=True)
        return None
    return arrays if str(arrays.pop("fingerprint")) == fingerprint else None


def _checked(content: bytes) -> dict[str, npt.NDArray[Any]] | None:
    """Returns the arrays, or None if their checksum is wrong or missing or if the content cannot be parsed."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
    except (ValueError, EOFError, OSError, KeyError, NotImplementedError, zipfile.BadZipFile):  # raised for damaged or cut files
        return None
    checksum = arrays.pop("checksum", None)
    return arrays if checksum is not None and str(checksum) == digest(arrays) else None


def digest(arrays: Arrays) -> str:
    """Returns the SHA-256 of the arrays' names, types, shapes and contents."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()
