"""One phase of the curriculum, and the mesh it runs on."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterator, Mapping
from typing import Annotated

from data_pipelines.schema import FRAME_CHOICES, IMAGE_BUDGETS, LOSS_WEIGHTINGS, RESIZES, PhaseSettings
from neo_jax.config.fields import AboveZero, AtLeastZero, OneOf, Positive, Ratio, Text, Whole, near_divisors, near_multiples

ARCHITECTURES = ("qwen3", "neo")
REMAT_POLICIES = ("none", "full", "attention", "dots")
DTYPES = ("float32", "bfloat16")
MODEL_PARTS = ("embedding", "patch_embedding", "pre_buffer", "base", "final_norm", "output")
ATTENTION = ("auto", "chunked", "tpu", "hopper")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """Sizes of the mesh's axes. Their product is the number of devices.

    Attributes:
      data: number of replicas of the parameters, each with different rows; -1: the number of devices divided by the other axes.
      fsdp: number of devices that parameters, gradients and moments are divided over, each with different rows.
      context: number of devices that the tokens of each row are divided over.
      tensor: number of devices that heads, MLP and vocabulary are divided over.
    """

    data: int = 1
    fsdp: Positive = 1
    context: Positive = 1
    tensor: Positive = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.data < 1 and self.data != -1:
            yield "data", f"is {self.data}, must be at least 1, or -1 for the rest of the devices"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of the curriculum. data_pipelines.schema.PhaseSettings describes the fields that determine its rows.

    Attributes:
      architecture: "qwen3": only the base layers, for text; "neo": the whole model.
      trains: "all"; "new": patch embedding, pre-buffer, and the H and W projections and norms of the base; or patterns of parameters' names. Several
        have commas between them, "!" takes parameters out, and the last that matches counts: "new,base.mlp.*", "all,!embedding". The rest is frozen.
      mixture: weight of each source by name; a source of weight 0 is left out.
      steps: number of updates of the parameters.
      rows_per_step: packed rows of one update, over all devices and accumulation passes.
      accumulate: number of gradient accumulation passes that the rows of an update are divided into.
      learning_rate: peak learning rate: linear warm-up over warmup_ratio of the steps, then a cosine to minimum_ratio of the peak over
        decay_ratio of the steps.
      carry_optimizer: True: parameters that the previous phase trained too keep their moments; False: all moments start at zero.
      remat: what the backward pass recomputes. "none": nothing; "full": whole layers, from their inputs; "attention": layers except for attention;
        "dots": layers except for attention and projections.
      unroll: how many layers an iteration of the loop over layers computes. With 1 the time to compile does not grow with depth; with more, a small
        model trains faster.
      attention: attention implementation; "auto" chooses it by devices, shapes and type.
      rates: factors of the learning rate for parameters by name, "PATTERN=FACTOR", such as base.*=0.1; the last pattern that matches counts. What is
        not to train at all is chosen by trains.
      minimum_ratio: learning rate at the end of the phase, as a share of the peak.
      warmup_ratio: share of the steps in which the learning rate rises to its peak.
      decay_ratio: share of the steps, the last ones, in which the learning rate falls: 1.0: all after the warm-up; 0.2: it stays at the peak until a
        fifth of the steps is left (warm-up, stable, decay); 0.0: it does not fall.
      compute_dtype: type of activations and of the parameters in matrix products.
    """

    name: str
    architecture: Annotated[str, OneOf(ARCHITECTURES)] = "neo"
    trains: Text = "all"
    context: Positive
    visual_tokens: Whole = 0
    images: Whole = 0
    segments: Positive
    min_pixels: Whole = 0
    max_pixels: Whole = 0
    frames: Whole = 0
    frames_per_second: tuple[AboveZero, AboveZero] = (1.0, 4.0)
    frame_pixels: Whole = 0
    mixture: Mapping[str, AtLeastZero]
    steps: Positive
    rows_per_step: Positive
    accumulate: Positive = 1
    learning_rate: AboveZero
    rates: tuple[Text, ...] = ()
    minimum_ratio: Ratio
    warmup_ratio: Ratio
    decay_ratio: Ratio = 1.0
    loss_weighting: Annotated[str, OneOf(LOSS_WEIGHTINGS)] = "square"
    carry_optimizer: bool = True
    remat: Annotated[str, OneOf(REMAT_POLICIES)] = "none"
    unroll: Positive = 1
    attention: Annotated[str, OneOf(ATTENTION)] = "auto"
    compute_dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    mesh: Mesh = Mesh()
    resize: Annotated[str, OneOf(RESIZES)] = "exact"
    frame_choice: Annotated[str, OneOf(FRAME_CHOICES)] = "neo"
    clip_pixels: Whole = 0
    image_budget: Annotated[str, OneOf(IMAGE_BUDGETS)] = "neo"
    jpeg_quality: tuple[Whole, Whole] = (0, 0)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not any(weight > 0 for weight in self.mixture.values()):
            yield "mixture", "gives no source a weight above 0: name at least one"
        if self.context % self.mesh.context:
            tokens, shards = near_multiples(self.context, self.mesh.context), near_divisors(self.context, self.mesh.context)
            yield (
                "context",
                f"{self.context} tokens do not divide by mesh.context {self.mesh.context}: {tokens} tokens would, or mesh.context {shards}",
            )
        shares = self.accumulate * self.mesh.fsdp * max(self.mesh.data, 1)
        if self.rows_per_step % shares:
            product = f"accumulate {self.accumulate} x mesh.data {max(self.mesh.data, 1)} x mesh.fsdp {self.mesh.fsdp}"
            yield (
                "rows_per_step",
                f"{self.rows_per_step} rows do not divide by {product} = {shares}: {near_multiples(self.rows_per_step, shares)} would",
            )
        for entry in trains_entries(self.trains):
            name = entry.removeprefix("!")
            if name == "new" and self.architecture == "qwen3":
                yield "trains", 'is "new", but the architecture qwen3 has no new parameters: train "all"'
            elif name not in ("all", "new") and not any(fnmatch.fnmatchcase(part, name.split(".")[0]) for part in MODEL_PARTS):
                yield (
                    "trains",
                    f'has {entry!r}, must be "all", "new" or a pattern of parameters, which begins with one of {", ".join(MODEL_PARTS)}',
                )
        if self.architecture == "qwen3" and self.visual_tokens:
            yield "visual_tokens", f'is {self.visual_tokens}, but the architecture qwen3 reads text only: set it to 0 or use "neo"'
        for text in self.rates:
            if _rate_pattern(text) is None:
                yield "rates", f"has {text!r}, must be PATTERN=FACTOR with a factor above 0, such as base.*=0.1"
        yield from self.input().problems()

    def rate_patterns(self) -> list[tuple[str, float]]:
        """Returns `rates` as (pattern, factor)."""
        return [found for text in self.rates if (found := _rate_pattern(text))]

    def input(self) -> PhaseSettings:
        """Returns the settings of this phase that data_pipelines needs."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(PhaseSettings) if field.name not in ("rows", "mixture")
        }
        used = {source: weight for source, weight in self.mixture.items() if weight > 0}
        return PhaseSettings(rows=self.steps * self.rows_per_step, mixture=used, **fields)


def trains_entries(text: str) -> list[str]:
    """Returns the entries of a setting `trains`, such as ["all", "!embedding"]."""
    return [entry.strip() for entry in text.split(",")]


def _rate_pattern(text: str) -> tuple[str, float] | None:
    """Returns pattern and factor of an entry of `rates`; None if it has none."""
    pattern, _, number = text.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        return None
    return (pattern, factor) if pattern and 0 < factor < math.inf else None
