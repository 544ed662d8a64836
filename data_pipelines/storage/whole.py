"""Files that are whole or not there."""

from __future__ import annotations

import os
import pathlib
import secrets


def write_whole(path: pathlib.Path, content: str | bytes | memoryview) -> None:
    """Writes a file so that a kill at any moment leaves the old content or the new, also where processes of several machines write it.

    Args:
      path: the file; its folder must exist.
      content: what it will hold; text is encoded as UTF-8.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
