"""What --checkpoint=PLACE names: a checkpoint of a run (RUN, RUN:STEP, RUN:PHASE), or a folder as published, NEO or Qwen3.

With :average behind it, the place of a run stands for its averaged parameters (optimizer.average).
"""

from __future__ import annotations

import abc
import functools
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from data_pipelines.schema import DataError
from neo_jax import config
from neo_jax.exit_codes import CONFIGURATION, DATA, DONE
from neo_jax.interop.config_fields import neo_model, qwen3_model, read_config
from neo_jax.interop.errors import WeightsError
from neo_jax.interop.load import load
from neo_jax.interop.tensors import StoredTensor, open_folder
from neo_jax.model.backbone import Parameters, abstract
from neo_jax.model.freezing import split
from neo_jax.runs.places import Found, find, is_run, split_place
from neo_jax.runs.reading import CheckpointError, DamagedError, check_arrays, read_one_by_one
from neo_jax.runs.record import describe

AVERAGE = ":average"
ENDS = 1 << 20  # bytes at each end of a file that tell it from another
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")  # in a published folder, in the order in which they are looked for


class Place(abc.ABC):
    """Parameters, and what is needed to use them.

    Attributes:
      text: the place as it was given.
      model: the model's shape.
      architecture: "neo" or "qwen3".
      tokenizer: where its tokenizer is; None: the folder holds none.
      pictures: how pictures are read (policy of a source): "reference" or "faithful".
    """

    text: str
    model: config.Model
    architecture: str
    tokenizer: config.Tokenizer | None
    pictures: str

    @abc.abstractmethod
    def parameters(self, dtype: str | None = None) -> Parameters:
        """Reads the parameters onto the current mesh. `dtype`: their type; None: as they are stored. Raises WeightsError or CheckpointError."""

    @abc.abstractmethod
    def identity(self) -> str:
        """Returns a digest that tells these parameters from others, made without reading them."""


class RunPlace(Place):
    """A checkpoint of a run.

    Attributes:
      found: where it is, and its record.
      settings: the configuration that it was trained with.
      phase: the phase that it was saved in.
      average: whether the averages stand in place of the parameters that the phase trains.
    """

    def __init__(self, text: str, found: Found, average: bool = False):
        self.text, self.found, self.average = text, found, average
        try:
            self.settings = config.Config.from_config_dict(found.record.configuration)
        except config.ConfigError as error:
            raise CheckpointError(
                f"{found.folder} was saved by another version of neo_jax, whose configuration is not read here: {error}"
            ) from error
        self.phase = next(phase for phase in self.settings.phases if phase.name == found.phase)
        self.model, self.architecture, self.tokenizer = self.settings.model, self.phase.architecture, self.settings.tokenizer
        policies = {source.pictures for source in self.settings.data.sources.values()}
        self.pictures = policies.pop() if len(policies) == 1 else "faithful"
        if average and not self.settings.optimizer.average:
            raise CheckpointError(f"{text}: the run keeps no average of its parameters (optimizer.average is 0): leave {AVERAGE} out")

    def parameters(self, dtype: str | None = None) -> Parameters:
        return {name: value.astype(dtype or value.dtype) for name, value in self.one_by_one()}

    def one_by_one(self) -> Iterator[tuple[str, jax.Array]]:
        """Yields the parameters as they are stored, on the current mesh. Raises CheckpointError, perhaps only behind the last one."""
        stored = self.settings.optimizer.parameter_dtype
        shapes = {name: shape.update(dtype=stored) for name, shape in abstract(self.model, self.architecture).items()}
        trainable, frozen = split(shapes, self.phase.trains)
        averages = {name: shape.update(dtype="float32") for name, shape in trainable.items()}
        trained = ("average", averages) if self.average else ("trainable", trainable)
        wanted = {part: shapes for part, shapes in (trained, ("frozen", frozen)) if shapes}
        others = "['moments']", "['trainable']" if self.average else "['average']"
        of_parameters = {name: text for name, text in self.found.arrays.items() if not name.startswith(others)}
        check_arrays(self.found.folder, of_parameters, describe(wanted))
        try:
            for name, value in read_one_by_one(self.found.folder, wanted, self.found.checksums):
                yield name, value.astype(stored)
        except DamagedError as error:
            raise CheckpointError(f"{self.found.folder} is damaged ({error}): name another step") from None

    def identity(self) -> str:
        return _digest([self.found.record.position.step, sorted(self.found.checksums.items()), *(["average"] if self.average else [])])


class FolderPlace(Place):
    """A folder as published.

    Attributes:
      folder: its path.
      values: the fields of its config.json.
    """

    pictures = "reference"

    def __init__(self, text: str, folder: pathlib.Path):
        self.text, self.folder = text, folder
        path = folder / "config.json"
        self.values: Mapping[str, Any] = read_config(path)
        kind = self.values.get("model_type")
        if kind == "neo_chat":
            self.model, self.architecture = neo_model(self.values, path), "neo"
        elif kind == "qwen3":
            self.model, self.architecture = qwen3_model(self.values, path, pre_buffer_layers=0, patch_channels=4), "qwen3"
        else:
            raise WeightsError(f"{path} has model_type {kind!r}: neo_jax reads neo_chat (NEO) and qwen3")
        found = next((folder / name for name in TOKENIZER_FILES if (folder / name).is_file()), None)
        self.tokenizer = config.Tokenizer(path=str(found), add_special_tokens=self.architecture == "qwen3") if found else None

    @functools.cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """The headers of its tensors, by name. Raises WeightsError."""
        return open_folder(self.folder)

    def parameters(self, dtype: str | None = None) -> Parameters:
        try:
            return load(self.model, self.architecture, self.tensors, dtype)
        except WeightsError as error:
            raise WeightsError(f"{self.folder}: {error}") from None

    def identity(self) -> str:
        """A digest of config.json, of the tensors' headers, and of the bytes at both ends of each file."""
        files = sorted({tensor.path for tensor in self.tensors.values()})
        headers = [(name, tensor.shape, tensor.dtype) for name, tensor in sorted(self.tensors.items())]
        return _digest([self.values, headers, [_ends(path) for path in files]])


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _ends(path: pathlib.Path) -> tuple[int, str]:
    """Returns a file's size and a digest of its first and last bytes."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        parts = []
        for start in (0, max(0, size - ENDS)):
            file.seek(start)
            parts.append(file.read(ENDS))
    return size, hashlib.sha256(b"".join(parts)).hexdigest()


def open_place(text: str) -> RunPlace | FolderPlace:
    """Opens a place: reads its configuration, no arrays yet.

    Raises:
      WeightsError: the folder does not exist or is neither a run nor a checkpoint that neo_jax reads.
      CheckpointError: the run has no such checkpoint.
    """
    average = text.endswith(AVERAGE) and not pathlib.Path(text).exists()
    place = text.removesuffix(AVERAGE) if average else text
    folder, _ = split_place(place)
    if not folder.is_dir():
        raise WeightsError(
            f"{folder} is no folder: name a run directory, RUN:STEP, RUN:PHASE, one of these with {AVERAGE}, or the folder of a NEO or Qwen3 "
            "checkpoint"
        )
    if is_run(folder):
        return RunPlace(text, find(place), average)
    if average:
        raise WeightsError(f"{text}: {AVERAGE} names the averaged parameters of a run, and {folder} is a published folder: leave it out")
    return FolderPlace(text, folder)


def exit_code(work: Callable[[], None]) -> int:
    """Does the work of a command that opens a place; returns its exit code. What its user can mend is said in one message on stderr."""
    try:
        work()
    except (config.ConfigError, WeightsError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIGURATION
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return DATA
    return DONE
