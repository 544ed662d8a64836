"""The sections of a configuration: model, tokenizer, optimizer, data, run, evaluation."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from data_pipelines.failures import FailurePolicy
from data_pipelines.schema import SourceSettings
from data_pipelines.sources import FORMATS
from neo_jax.config.fields import (
    AboveZero,
    AtLeastZero,
    BelowOne,
    OneOf,
    OptionalPath,
    Path,
    Positive,
    Ratio,
    Seed,
    Whole,
)
from neo_jax.config.phase import DTYPES

PATCH_BYTES = 16 * 16 * 3
PATCHES_PER_TOKEN = 4

STALLING_BETA2 = 0.99  # above it a bfloat16 second moment hardly falls: rounding to the nearest undoes changes below 2^-9 of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The transformer's shape.

    Attributes:
      hidden: width of the residual stream.
      mlp: width between the SwiGLU's projections.
      heads: query heads.
      kv_heads: key/value heads; each is shared by heads / kv_heads query heads.
      head_dim: D, width of the temporal part of a query or key; height and width parts have D / 2 each.
      base_layers: layers of the language model.
      pre_buffer_layers: the new layers in front of them.
      vocabulary: rows of the embedding table.
      tied: the output projection is the embedding table.
      rope_theta: rotary base of t, the place in the sequence.
      rope_theta_hw: rotary base of h and w, the place in a picture.
      patch_rope_theta: rotary base of x and y in the patch embedding.
      patch_channels: channels between the two convolutions of the patch embedding.
      norm_epsilon: added to the mean square in every RMSNorm.
      initializer_range: standard deviation of random matrices. 0.02, Qwen3's, suits a width of thousands; 1 / sqrt(hidden) a narrow model.
    """

    hidden: Positive
    mlp: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    base_layers: Positive
    pre_buffer_layers: Whole
    vocabulary: Positive
    tied: bool
    rope_theta: AboveZero = 1e6
    rope_theta_hw: AboveZero = 1e4
    patch_channels: Positive = 1024
    patch_rope_theta: AboveZero = 1e4
    norm_epsilon: AboveZero = 1e-6
    initializer_range: AboveZero = 0.02

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.heads % self.kv_heads:
            yield (
                "heads",
                f"{self.heads} query heads cannot share {self.kv_heads} key/value heads evenly: make heads a multiple of kv_heads",
            )
        if self.head_dim % 4:
            yield "head_dim", f"is {self.head_dim}, must be a multiple of 4: half of it is rotated in pairs for height, half for width"
        if self.patch_channels % 4:
            yield "patch_channels", f"is {self.patch_channels}, must be a multiple of 4: half is rotated in pairs for x, half for y"

    def parameters(self) -> int:
        """Number of parameters of the whole model, pre-buffer and patch embedding included."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        projections = self.hidden * (2 * query + 2 * key + key + query)  # q, q_hw, k, k_hw, v, o
        norms = 2 * self.head_dim + 4 * (self.head_dim // 2) + 2 * self.hidden
        layer = projections + norms + 3 * self.hidden * self.mlp
        patch = (PATCH_BYTES + 1) * self.patch_channels + (PATCHES_PER_TOKEN * self.patch_channels + 1) * self.hidden
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return (self.base_layers + self.pre_buffer_layers) * layer + patch + tables + self.hidden


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Arguments of data_pipelines.text.tokenizers.load_tokenizer.

    Attributes:
      path: a SentencePiece .model file, a tokenizer.json, or a folder with one.
      add_special_tokens: NEO's special tokens that the tokenizer lacks get the ids after its vocabulary; otherwise a missing one is an error.
    """

    path: Path
    add_special_tokens: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW, and how its state and the parameters are kept. The update itself is computed in float32.

    Attributes:
      beta1: what a step keeps of the first moment.
      beta2: what a step keeps of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: share of a matrix, times the learning rate, that a step takes away; vectors have none.
      clip_norm: largest global norm of the gradient.
      mu_dtype: type that the first moment is kept in.
      nu_dtype: type that the second moment is kept in; bfloat16 needs a beta2 of at most 0.99.
      parameter_dtype: type of the parameters between steps. bfloat16 is rounded stochastically: rounding to the nearest would lose small updates.
      offload: the moments stay in host memory and come to the devices for the update.
    """

    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.95
    epsilon: AboveZero = 1e-8
    weight_decay: AtLeastZero = 0.01
    clip_norm: AboveZero = 1.0
    mu_dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    nu_dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    parameter_dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    offload: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.nu_dtype == "bfloat16" and self.beta2 > STALLING_BETA2:
            yield (
                "nu_dtype",
                f"is bfloat16 with beta2 {self.beta2:g}: the second moment changes by at most 1 - beta2 = {1 - self.beta2:.2g} of itself in a "
                f"step, too little for bfloat16's steps of 2^-8, so it would stall: use float32, or beta2 of at most {STALLING_BETA2:g}",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where rows come from, and what of it may fail.

    Attributes:
      sources: what mixtures name, in the order in which batches number them.
      heldout: sources that are never trained on.
      index_folder: where length indexes are kept.
      threads: threads that decode samples.
      max_failure_rate: share of samples that may be skipped, once minimum_samples were tried.
      max_failure_run: samples skipped one after the other that stop the run.
      stall_seconds: without progress in reading data after which the process ends with exit code 75 (a dead file system).
      minimum_samples: samples tried before max_failure_rate is judged.
    """

    sources: Mapping[str, SourceSettings]
    heldout: Mapping[str, SourceSettings]
    index_folder: Path
    threads: Positive = 2
    max_failure_rate: Ratio = FailurePolicy.max_rate
    max_failure_run: Positive = FailurePolicy.max_run
    minimum_samples: Positive = FailurePolicy.minimum_samples
    stall_seconds: Positive = 1800

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.sources:
            yield "sources", "is empty: name at least one source"
        for section in ("sources", "heldout"):
            for name, source in getattr(self, section).items():
                if source.format not in FORMATS:
                    yield f"{section}.{name}.format", f"is {source.format!r}, must be one of {', '.join(FORMATS)}"
                if not source.path:
                    yield f"{section}.{name}.path", "is empty: set it"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run writes and how often.

    Attributes:
      directory: of the run: configuration, metrics, checkpoints, answers, report. The same directory goes on with the run.
      initial: folder of the Qwen3 or NEO checkpoint (config.json and safetensors) that the first phase starts from; "": random parameters.
      seed: of parameters, order of the data, frames and rounding.
      log_every: steps between log lines.
      checkpoint_every: steps between checkpoints.
      keep_checkpoints: how many of the newest are kept.
      heldout_every: steps between held-out losses; 0: at the end of phases only.
      heldout_rows: packed rows of each held-out source that a held-out loss is taken over.
      debug: checks the values of attention intervals on the devices, step by step, and stops with the row and token that is wrong; slower.
    """

    directory: Path
    initial: OptionalPath = ""
    seed: Seed = 0
    log_every: Positive = 1
    checkpoint_every: Positive
    keep_checkpoints: Positive = 2
    heldout_every: Whole
    heldout_rows: Positive
    debug: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if found := re.search(r"\[[^/]*\]|\\", os.path.abspath(self.directory)):
            yield (
                "directory",
                f"is {self.directory!r}: checkpoints in a folder with {found[0]!r} in its whole path ({os.path.abspath(self.directory)}) cannot "
                "be read again (the library takes it for a pattern): choose a path without [...] and backslash",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out questions answered at the end of each phase.

    Attributes:
      questions: at most so many of a family after the last phase.
      interim_questions: at most so many of a family after each phase before the last.
      answer_tokens: most tokens of an answer.
      rows: questions answered at a time.
    """

    questions: Positive = 200
    interim_questions: Positive = 100
    answer_tokens: Positive = 32
    rows: Positive = 32
