"""Writes a checkpoint folder: .safetensors files with their index, and the files beside them. The folder appears whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

from neo_jax.interop.errors import WeightsError
from neo_jax.interop.tensors import INDEX, SINGLE

FILE_BYTES = 10**9  # of a .safetensors file, unless one tensor is larger: so much is held in the host's memory
FILE_MODE = 0o644
FREE_SPACE = 1.02  # that writing needs, as a multiple of the tensors' size


class TensorSpec(NamedTuple):
    """Name, shape and type (numpy's name, "bfloat16" included) of a tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * _itemsize(self.dtype)


def write_folder(
    output: pathlib.Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, np.ndarray]],
    files: Mapping[str, bytes | pathlib.Path],
    file_bytes: int = FILE_BYTES,
) -> None:
    """Writes a checkpoint folder.

    Args:
      output: the folder; it must not exist, or be empty.
      specs: the tensors, in any order.
      tensors: name and values of each; one .safetensors file's are held in memory at a time.
      files: contents of further files, or files to copy, by name.
      file_bytes: largest size of a .safetensors file with several tensors.

    Raises:
      WeightsError: the folder holds files, or cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WeightsError(f"{output} exists: name a new folder, or remove it")
    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        _check_space(partial, specs)
        _write_tensors(partial, specs, iter(tensors), file_bytes)
        for name, content in files.items():
            if isinstance(content, bytes):
                (partial / name).write_bytes(content)
            else:
                shutil.copyfile(content, partial / name)
        if output.exists():
            output.rmdir()
        os.replace(partial, output)
    except OSError as error:
        raise WeightsError(f"{output} cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_space(folder: pathlib.Path, specs: Sequence[TensorSpec]) -> None:
    need, free = FREE_SPACE * sum(spec.nbytes for spec in specs), shutil.disk_usage(folder).free
    if free < need:
        raise WeightsError(f"{folder.parent}: the tensors need {need / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free: free some space")


def _write_tensors(folder: pathlib.Path, specs: Sequence[TensorSpec], tensors: Iterator[tuple[str, np.ndarray]], file_bytes: int) -> None:
    announced = {spec.name: spec for spec in specs}
    files: list[list[str]] = []
    for group in _grouped(tensors, file_bytes):
        found = {name: TensorSpec(name, value.shape, str(value.dtype)) for name, value in group.items()}
        assert all(announced.pop(name) == spec for name, spec in found.items()), "tensors are not those announced"
        files.append(list(group))
        path = folder / _unfinished(len(files))
        save_file(group, path, metadata={"format": "pt"})  # without "pt", transformers refuses the file
        path.chmod(FILE_MODE)  # safetensors lets nobody but the owner read it
        group.clear()  # before the next file's tensors are read
    assert not announced, f"{len(announced)} tensors are missing"
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files, 1):  # their number is part of their names
        final = SINGLE if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        (folder / _unfinished(number)).rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    if len(files) > 1:
        index = {"metadata": {"total_size": sum(spec.nbytes for spec in specs)}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _grouped(tensors: Iterator[tuple[str, np.ndarray]], file_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the tensors of each file."""
    group: dict[str, np.ndarray] = {}
    for name, value in tensors:
        if group and sum(each.nbytes for each in group.values()) + value.nbytes > file_bytes:
            yield group
            group = {}
        group[name] = value
    if group:
        yield group


def _unfinished(number: int) -> str:
    return f".{number}.safetensors"


def _itemsize(dtype: str) -> int:
    return {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}[dtype]
