"""Opens a checkpoint to answer with: on all devices of this machine, with the limits on pictures that it was trained with."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Annotated

import jax

from data_pipelines.schema import DataError, PhaseSettings
from data_pipelines.text.tokenizers import load_tokenizer
from neo_jax import config
from neo_jax.config.fields import OneOf, Path, Whole
from neo_jax.config.phase import DTYPES
from neo_jax.inference.answering import Answerer
from neo_jax.model.computation import Computation
from neo_jax.places import FolderPlace, RunPlace
from neo_jax.sharding import make_mesh

# How a published NEO-ov reads pictures and clips where nothing else is asked for: the pixels of lmms-eval's settings for it.
PUBLISHED = PhaseSettings("published", 1, 32_768, 32_768, 1024, 1, 65_536, 4_194_304, 128, (1.0, 4.0), 512 * 512, {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointFlags:
    """The flags of all commands that answer with a checkpoint.

    Attributes:
      checkpoint: a run directory, RUN:STEP, RUN:PHASE, or the folder of a NEO or Qwen3.
      context: largest number of tokens of question and answer; 0: that of the checkpoint's phase, 32,768 for a published folder.
      min_pixels: smallest number of pixels of a picture after resizing; 0: that of the phase, 65,536 for a published folder.
      max_pixels: largest number; 0: that of the phase, 4,194,304 for a published folder.
      frames: largest number of frames of a clip; 0: that of the phase, 128 for a published folder.
      dtype: type of the parameters and activations; without it, what the phase computes in; for a published folder bfloat16 on an accelerator and
        float32 on a CPU.
    """

    checkpoint: Path
    context: Whole = 0
    min_pixels: Whole = 0
    max_pixels: Whole = 0
    frames: Whole = 0
    dtype: Annotated[str, OneOf(("", *DTYPES))] = ""


def mesh_for(model: config.Model) -> jax.sharding.Mesh:
    """Returns a mesh over all devices of this machine: heads over as many as they divide by, other parameters over the rest."""
    devices = jax.local_devices()
    tensor = math.gcd(len(devices), model.kv_heads)
    return make_mesh(fsdp=len(devices) // tensor, tensor=tensor, devices=devices)


def open_answerer(place: RunPlace | FolderPlace, flags: CheckpointFlags, tell: Callable[[str], None]) -> Answerer:
    """Loads a checkpoint onto the current mesh; `tell` is given lines of progress.

    Raises WeightsError, CheckpointError, or DataError if there is no tokenizer or it does not fit the model.
    """
    if place.tokenizer is None:
        raise DataError(f"{place.text} holds no tokenizer.json or tokenizer.model: put it there, as published")
    tokenizer = load_tokenizer(place.tokenizer.path, place.tokenizer.add_special_tokens)
    if tokenizer.vocabulary > place.model.vocabulary:
        ids, rows = f"{tokenizer.vocabulary:,}", f"{place.model.vocabulary:,}"
        raise DataError(
            f"tokenizer {place.tokenizer.path} has {ids} ids, the model has rows for {rows}: it is not that of these parameters"
        )
    began = time.monotonic()
    dtype = flags.dtype or _own_dtype(place)
    tell(f"reading {place.text} ({place.model.parameters():,} parameters, {dtype})")
    parameters = place.parameters(dtype)
    jax.block_until_ready(parameters)
    tell(f"read in {time.monotonic() - began:.0f} s; the first answer compiles its programs")
    return Answerer(place.model, Computation(place.architecture, dtype), parameters, tokenizer, _limits(place, flags))


def _own_dtype(place: RunPlace | FolderPlace) -> str:
    if isinstance(place, RunPlace):
        return place.phase.compute_dtype
    return "float32" if jax.devices()[0].platform == "cpu" else "bfloat16"


def _limits(place: RunPlace | FolderPlace, flags: CheckpointFlags) -> PhaseSettings:
    if isinstance(place, RunPlace):
        limits = dataclasses.replace(place.phase.input(), jpeg_quality=(0, 0))
    else:
        limits = PUBLISHED if place.architecture == "neo" else dataclasses.replace(PUBLISHED, visual_tokens=0, images=0, frames=0)
    given = {name: getattr(flags, name) for name in ("context", "min_pixels", "max_pixels", "frames") if getattr(flags, name)}
    return dataclasses.replace(limits, **given)
