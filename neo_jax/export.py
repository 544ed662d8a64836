"""Writes parameters as the ecosystem reads them: python -m neo_jax.export --checkpoint=PLACE --output=FOLDER."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from neo_jax.config.fields import ConfigError, OneOf, Path
from neo_jax.config.flags import Command, read_flags
from neo_jax.config.phase import DTYPES
from neo_jax.exit_codes import CONFIGURATION, DONE
from neo_jax.interop.errors import WeightsError
from neo_jax.interop.load import checked_table, to_official
from neo_jax.interop.names import table_of
from neo_jax.interop.small_files import small_files
from neo_jax.interop.write import write_folder
from neo_jax.places import FolderPlace, RunPlace, open_place
from neo_jax.publishing.files import Files, files_of_run, specs_of
from neo_jax.runs.reading import CheckpointError
from neo_jax.sharding import make_mesh


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags.

    Attributes:
      checkpoint: a run directory (its newest checkpoint), RUN:STEP, RUN:PHASE (the last checkpoint of a phase), or the folder of a NEO or Qwen3.
      output: the folder to write; it must not exist, or be empty.
      dtype: rounds all tensors to this type; without it each keeps its own.
    """

    checkpoint: Path
    output: Path
    dtype: Annotated[str, OneOf(("", *DTYPES))] = ""


COMMAND = Command(
    "neo_jax.export",
    "Writes a checkpoint as safetensors with config.json, tokenizer, preprocessor and generation settings and a model card, in the names and shapes "
    "of the official NEO and Qwen3. It runs on the CPU and may run while the run trains.",
    "--checkpoint=runs/mine:sft --output=exported",
    {DONE: "written", CONFIGURATION: "a flag is wrong, the checkpoint cannot be read or the folder cannot be written; nothing was written"},
    operands=None,
)


def export(flags: Flags) -> list[str]:
    """Writes the folder; returns lines that say what was written. Raises WeightsError or CheckpointError."""
    place, output = open_place(flags.checkpoint), pathlib.Path(flags.output)
    dtype = flags.dtype or None
    specs = specs_of(place, dtype)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(place, FolderPlace):
            _check(place)
            files: Files = dict(small_files(place.folder))
            tensors = _of_folder(place, dtype)
        else:
            files = files_of_run(place, dtype or place.settings.optimizer.parameter_dtype, pathlib.Path(scratch))
            tensors = _of_run(place, dtype)
        write_folder(output, specs, tensors, files)
    size = sum(spec.nbytes for spec in specs)
    lines = [f"{output}: {len(specs)} tensors, {size / 1e9:.2f} GB, and {', '.join(sorted(files))}, in {time.monotonic() - began:.0f} s"]
    if place.tokenizer is None:
        lines.append(f"{flags.checkpoint} holds no tokenizer.json or tokenizer.model: exported without a tokenizer")
    if dtype and (rounded := _rounded(place, dtype)):
        lines.append(f"rounded to {dtype}: {rounded}")
    return lines


def _check(place: FolderPlace) -> None:
    try:
        checked_table(place.model, place.architecture, place.tensors)
    except WeightsError as error:
        raise WeightsError(f"{place.folder}: {error}") from None


def _of_folder(place: FolderPlace, dtype: str | None) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in place.tensors.items():
        yield name, tensor.read().astype(dtype or tensor.dtype, copy=False)


def _of_run(place: RunPlace, dtype: str | None) -> Iterator[tuple[str, np.ndarray]]:
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        for name, value in to_official(table_of(place.model, place.architecture), place.one_by_one()):
            yield name, value.astype(dtype or value.dtype, copy=False)


def _rounded(place: RunPlace | FolderPlace, dtype: str) -> str:
    """Returns how many tensors had a type that this one does not hold, "" if none."""
    kinds = [spec.dtype for spec in specs_of(place, None)]
    lossy = [kind for kind in kinds if jnp.promote_types(kind, dtype) != np.dtype(dtype)]
    return f"{len(lossy)} of {len(kinds)} tensors, which were {', '.join(sorted(set(lossy)))}" if lossy else ""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    jax.config.update("jax_platforms", "cpu")
    try:
        flags, _ = read_flags(Flags, arguments, COMMAND)
        for line in export(flags):
            print(line)
    except (ConfigError, WeightsError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIGURATION
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
