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
      specs: the tensors in the order in which `tensors` gives them.
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
    groups = _grouped(specs, file_bytes)
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = SINGLE if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        part: dict[str, np.ndarray] = {}
        for spec in group:
            name, value = next(tensors)
            found = TensorSpec(name, value.shape, str(value.dtype))
            assert found == spec, f"{found} is written where {spec} was announced"
            part[name] = value
            weight_map[name] = file
        save_file(part, folder / file, metadata={"format": "pt"})  # without "pt", transformers refuses the file
    if len(groups) > 1:
        index = {"metadata": {"total_size": sum(spec.nbytes for spec in specs)}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _grouped(specs: Sequence[TensorSpec], file_bytes: int) -> list[list[TensorSpec]]:
    """Returns the tensors of each file, in order."""
    groups: list[list[TensorSpec]] = []
    room = 0
    for spec in specs:
        if not groups or spec.nbytes > room:
            groups.append([])
            room = file_bytes
        groups[-1].append(spec)
        room -= spec.nbytes
    return groups


def _itemsize(dtype: str) -> int:
    return {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}[dtype]
