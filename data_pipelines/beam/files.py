"""Accesses files of the work folder, on a disk that all workers share or in an object store, through the file systems of Apache Beam."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Iterable

from apache_beam.io.filesystems import FileSystems

_PARALLEL = 16  # maximum number of files that are fetched at once


def put(path: pathlib.Path, address: str) -> None:
    """Copies a local file to an address. It appears complete, even if several workers write it."""
    partial = f"{address}.{secrets.token_hex(4)}.partial"
    with path.open("rb") as source, FileSystems.create(partial) as target:
        shutil.copyfileobj(source, target)
    FileSystems.rename([partial], [address])


def put_text(text: str, address: str) -> None:
    with FileSystems.create(address) as target:
        target.write(text.encode())


def read_text(address: str) -> str:
    with FileSystems.open(address) as source:
        return bytes(source.read()).decode()


def fetch(address: str, path: pathlib.Path) -> None:
    """Copies a file to a local path, where it appears complete; the folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with FileSystems.open(address) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def fetch_all(files: Iterable[tuple[str, pathlib.Path]]) -> None:
    """Copies files, given as (address, local path), at most _PARALLEL at once."""
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(lambda file: fetch(*file), files))


def addresses_in(folder: str) -> list[str]:
    """Returns the addresses of the files of a folder and its subfolders; empty if the folder does not exist."""
    return [each.path for found in FileSystems.match([f"{folder}/**"]) for each in found.metadata_list]


def delete(folder: str) -> None:
    """Deletes a folder if it exists."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif addresses := addresses_in(folder):
        FileSystems.delete(addresses)


def is_local(address: str) -> bool:
    """Returns True if an address is a path on a disk."""
    return "://" not in address


def pack(folder: pathlib.Path, address: str) -> None:
    """Writes the files of a local folder as an archive; subfolders are left out."""
    with tempfile.TemporaryDirectory() as scratch:
        local = pathlib.Path(scratch) / "archive"
        with tarfile.open(local, "w") as archive:
            for path in sorted(path for path in folder.iterdir() if path.is_file()):
                archive.add(path, path.name)
        put(local, address)


def unpack(address: str, folder: pathlib.Path) -> None:
    """Extracts an archive of tables to a folder that other processes may be using: a file appears after the files that it refers to."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, FileSystems.open(address) as source:
        with tarfile.open(fileobj=source, mode="r|") as archive:
            archive.extractall(scratch, filter="data")
        for path in sorted(pathlib.Path(scratch).iterdir(), key=lambda path: (path.suffix == ".seen", path.suffix == ".json")):
            os.replace(path, folder / path.name)
