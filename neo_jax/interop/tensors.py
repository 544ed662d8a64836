"""The tensors of a checkpoint folder's .safetensors files, read one by one."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

from neo_jax.interop.config_fields import read_json
from neo_jax.interop.errors import WeightsError

# As safetensors names types, and as numpy (with ml_dtypes) does.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
READ_VALUES = 1 << 25  # of a tensor that are read at a time
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its header. `read` reads the values.

    Attributes:
      path: the file.
      name: name in the file.
      shape: its shape.
      dtype: numpy's name of its type, "bfloat16" included.
    """

    path: pathlib.Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> np.ndarray:
        """Reads the values. The file is opened for a part of the tensor at a time, so that memory holds little of it twice (as mapped pages too)."""
        if not self.shape or math.prod(self.shape) <= READ_VALUES:
            return _with_file(self.path, lambda file: file.get_tensor(self.name))
        values, start = None, 0
        for block in self.blocks(max(1, READ_VALUES * self.shape[0] // math.prod(self.shape))):
            values = np.empty(self.shape, block.dtype) if values is None else values
            values[start : start + len(block)] = block
            start += len(block)
        assert values is not None
        return values

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yields the values, so many rows of the first axis at a time."""

        def block(start: int) -> np.ndarray:
            return _with_file(self.path, lambda file: file.get_slice(self.name)[start : min(start + rows, self.shape[0])])

        yield from map(block, range(0, self.shape[0], rows))


Tensors = Mapping[str, StoredTensor]


def open_folder(folder: pathlib.Path) -> dict[str, StoredTensor]:
    """Reads the headers of all tensors of a checkpoint, by name: those of model.safetensors, or of the files that its index names.

    Raises:
      WeightsError: a file is missing, damaged or outside of the folder, index and files contradict each other, or a tensor is quantized.
    """
    if not (folder / INDEX).exists():
        return open_file(folder / SINGLE)
    files = _read_index(folder / INDEX)
    if (folder / SINGLE).exists() and SINGLE not in files:
        raise WeightsError(f"{folder} holds {SINGLE} and {INDEX}, which does not name it: remove the one that is not of these weights")
    tensors: dict[str, StoredTensor] = {}
    for file, names in files.items():
        if not (folder / file).is_file():
            raise WeightsError(f"{folder / file} does not exist, but {INDEX} names it: fetch it again")
        read = open_file(folder / file)
        if missing := sorted(names - read.keys()):
            raise WeightsError(f"{folder / file} has no tensor {missing[0]!r}, but {INDEX} says so: fetch both again")
        if extra := sorted(read.keys() - names):
            raise WeightsError(f"{folder / file} has a tensor {extra[0]!r} that {INDEX} does not place there: fetch both again")
        tensors |= read
    return tensors


def _read_index(path: pathlib.Path) -> dict[str, set[str]]:
    """Returns the names of the tensors of each file, by file name."""
    index = read_json(path, "it names the files of a checkpoint")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{path}: field weight_map is missing or empty; it says which file holds which tensor: fetch it again")
    files: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        # Only plain names, so that an index cannot read files outside of the folder. Symbolic links are allowed: download caches consist of them.
        if (
            not isinstance(file, str)
            or pathlib.PurePath(file).name != file
            or "\\" in file
            or "\0" in file
            or not file.endswith(".safetensors")
        ):
            raise WeightsError(
                f"{path}: weight_map places {name!r} in {file!r}, which is not the name of a .safetensors file in {path.parent}"
            )
        files.setdefault(file, set()).add(name)
    return dict(sorted(files.items()))


def open_file(path: pathlib.Path) -> dict[str, StoredTensor]:
    """Reads the headers of all tensors of one .safetensors file, by name.

    Raises:
      WeightsError: the file is missing, damaged, or holds a tensor of integers or of 8 bits or less.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: a checkpoint folder holds config.json and {SINGLE}")

    def headers(file: safe_open) -> dict[str, StoredTensor]:
        found = {}
        for name in sorted(file.keys()):
            part = file.get_slice(name)
            if (dtype := part.get_dtype()) not in DTYPES:
                raise WeightsError(
                    f"{path}: tensor {name!r} is stored as {_dtype(dtype)}; quantized weights cannot be read: "
                    "use the checkpoint that was published in bfloat16"
                )
            found[name] = StoredTensor(path, name, tuple(part.get_shape()), DTYPES[dtype])
        return found

    return _with_file(path, headers)


def _with_file[Result](path: pathlib.Path, work: Callable[[safe_open], Result]) -> Result:
    try:
        with safe_open(path, framework="numpy") as file:
            return work(file)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a readable .safetensors file ({error}): fetch it again") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error})") from None


def _dtype(name: str) -> str:
    return f"{name} (FP8)" if name.startswith("F8_") else name
