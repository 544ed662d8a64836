"""Recognises files with a media file's name but other content: pointers, error pages of failed downloads, text, archives."""

from __future__ import annotations

import json
import re

HEAD_BYTES = 1024
WRAPPED = {  # by their first bytes: what files are that hold or stand for others, and what to do
    b"version https://git-lfs": ("a Git LFS pointer and not the file itself", "fetch the file (git lfs pull)"),
    b"PK\x03\x04": ("a zip archive", "unpack it and name the file in it"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it and name the file in it"),
    b"\x1f\x8b": ("compressed with gzip", "unpack it (gunzip)"),
    b"BZh": ("compressed with bzip2", "unpack it (bunzip2)"),
    b"\xfd7zXZ\0": ("compressed with xz", "unpack it (unxz)"),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard", "unpack it (unzstd)"),
}

_SVG = re.compile(rb"(?:<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>|\s)*<svg[\s/>]", re.DOTALL)
_MAGIC = WRAPPED | {b"%PDF": ("a PDF document", "convert its pages to PNG or JPEG")}


def describe(head: bytes) -> str | None:
    """Returns the kind of a file and a remedy, from its first HEAD_BYTES bytes; None if it is not recognised."""
    for magic, (what, advice) in _MAGIC.items():
        if head.startswith(magic):
            return f"{what}: {advice}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _SVG.match(text):
        return "an SVG drawing: convert it to PNG"
    begins = f"it begins with {text[:60].decode(errors='replace')!r}"
    if text[:1] == b"<" and text.isascii():
        return f"HTML or XML ({begins}), such as the error page of a download: fetch the file again"
    if not text or b"\0" in head or not _is_text(head):
        return None
    kind = "JSON" if _is_json(text) else "text"
    return f"{kind} ({begins}), such as the error message of a download: fetch the file again"


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return len(head) == HEAD_BYTES and error.start > HEAD_BYTES - 4  # the head may end within a character
    return True


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
