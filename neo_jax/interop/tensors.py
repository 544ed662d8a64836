"""Reads the .safetensors files of a checkpoint folder."""

from __future__ import annotations

import pathlib

import numpy as np
from safetensors import SafetensorError, safe_open

from neo_jax.interop.config_fields import read_json
from neo_jax.interop.errors import WeightsError

DTYPES = ("F64", "F32", "F16", "BF16")  # as safetensors names them
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_folder(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a checkpoint, by name, from model.safetensors or from the files that model.safetensors.index.json names.

    Raises:
      WeightsError: a file is missing, damaged or outside of the folder, index and files contradict each other, or a tensor is quantized.
    """
    if not (folder / INDEX).exists():
        return read_tensors(folder / SINGLE)
    files = _read_index(folder / INDEX)
    if (folder / SINGLE).exists() and SINGLE not in files:
        raise WeightsError(f"{folder} holds {SINGLE} and {INDEX}, which does not name it: remove the one that is not of these weights")
    tensors: dict[str, np.ndarray] = {}
    for file, names in files.items():
        if not (folder / file).is_file():
            raise WeightsError(f"{folder / file} does not exist, but {INDEX} names it: fetch it again")
        read = read_tensors(folder / file)
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


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all tensors of one .safetensors file, in the floating-point types in which they are stored.

    Raises:
      WeightsError: the file is missing, damaged, or holds a tensor of integers or of 8 bits or less.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: a checkpoint folder holds config.json and {SINGLE}")
    try:
        with safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())
            for name in names:
                if (dtype := file.get_slice(name).get_dtype()) not in DTYPES:
                    raise WeightsError(
                        f"{path}: tensor {name!r} is stored as {_dtype(dtype)}; quantized weights cannot be read: "
                        "use the checkpoint that was published in bfloat16"
                    )
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a readable .safetensors file ({error}): fetch it again") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error})") from None


def _dtype(name: str) -> str:
    return f"{name} (FP8)" if name.startswith("F8_") else name
