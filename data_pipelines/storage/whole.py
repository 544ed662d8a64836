"""Writes files atomically."""

from __future__ import annotations

import os
import pathlib
import secrets


def write_whole(path: pathlib.Path, content: str | bytes | memoryview) -> None:
    """Writes a file atomically: after a kill at any moment it has either the old content or the new.

    This also holds if processes of several machines write it at once.

    Args:
      path: path of the file; its folder must exist.
      content: new content; text is encoded as UTF-8.
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
