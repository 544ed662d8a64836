"""The configuration: what a run is, as frozen dataclasses. Everything is checked here, at once, before anything is opened.

A configuration file has `get_config(arg) -> ConfigDict` with the sections of `Config`; `phases` is a section with one section for each
phase by name, and `curriculum` the names in the order in which they are trained.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import ml_collections

from data_pipelines.schema import SourceSettings
from neo_jax.command_line import read_command_line
from neo_jax.phase import ARCHITECTURES, DTYPES, REMAT_POLICIES, Mesh, Phase
from neo_jax.settings import (
    INVALID,
    AboveZero,
    AtLeastZero,
    BelowOne,
    ConfigError,
    OneOf,
    Positive,
    Ratio,
    Seed,
    Text,
    Whole,
    near_divisors,
    nearest,
    read_fields,
)

__all__ = [
    "ARCHITECTURES",
    "REMAT_POLICIES",
    "Config",
    "ConfigError",
    "Data",
    "Evaluation",
    "Mesh",
    "Model",
    "Optimizer",
    "Phase",
    "Run",
    "Tokenizer",
    "differences",
    "parse_command_line",
]

MAY_CHANGE = (  # in an existing run directory: nothing here changes which rows are trained on, in which order, or the mathematics
    "phases.*.accumulate",
    "phases.*.mesh.*",
    "phases.*.remat",
    "phases.*.attention",
    "optimizer.offload",
    "data.heldout*",
    "data.index_folder",
    "data.threads",
    "data.max_failure_rate",
    "data.max_failure_run",
    "data.minimum_samples",
    "evaluation.*",
    "run.directory",
    "run.log_every",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.heldout_every",
    "run.heldout_rows",
    "run.debug",
)
PATCH_BYTES = 16 * 16 * 3
PATCHES_PER_TOKEN = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The transformer's shape.

    Attributes:
      hidden: width of the residual stream.
      mlp: width between the SwiGLU's projections.
      heads, kv_heads: query heads, and key/value heads that groups of them share.
      head_dim: D, width of the temporal part of a query or key; height and width parts have D / 2 each.
      base_layers, pre_buffer_layers: layers of the language model, and the new ones in front of them.
      vocabulary: rows of the embedding table.
      tied: the output projection is the embedding table.
      rope_theta, rope_theta_hw, patch_rope_theta: rotary bases of t, of h and w, and of the patch embedding.
      patch_channels: channels between the two convolutions of the patch embedding.
      norm_epsilon: of every RMSNorm.
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
    """A SentencePiece .model file, a tokenizer.json, or a folder with one; arguments of data_pipelines.tokenizers.load_tokenizer."""

    path: Text
    add_special_tokens: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW, and how its state and the parameters are kept. The update itself is computed in float32.

    Attributes:
      weight_decay: of matrices only.
      clip_norm: largest global norm of the gradient.
      mu_dtype, nu_dtype: of the first and the second moment.
      parameter_dtype: of the parameters between steps. bfloat16 is rounded stochastically: rounding to the nearest would lose small updates.
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
    """

    sources: Mapping[str, SourceSettings]
    heldout: Mapping[str, SourceSettings]
    index_folder: Text
    threads: Positive = 2
    max_failure_rate: Ratio = 0.01
    max_failure_run: Positive = 100
    minimum_samples: Positive = 1000

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.sources:
            yield "sources", "is empty: name at least one source"
        for section in ("sources", "heldout"):
            for name, source in getattr(self, section).items():
                if source.format not in ("jsonl", "tfds"):
                    yield f"{section}.{name}.format", f"is {source.format!r}, must be jsonl or tfds"
                if not source.path:
                    yield f"{section}.{name}.path", "is empty: set it"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run writes and how often: steps between log lines, checkpoints and held-out losses (0: at the end of phases only).

    heldout_rows is the number of packed rows of each held-out source that a held-out loss is taken over. initial is the folder of the Qwen3
    or NEO checkpoint (config.json and safetensors) that the first phase starts from; "": random parameters. debug checks the values of attention
    intervals on the devices, step by step, and stops with the row and token that is wrong; slower.
    """

    directory: Text
    initial: str = ""
    seed: Seed = 0
    log_every: Positive = 1
    checkpoint_every: Positive
    keep_checkpoints: Positive = 2
    heldout_every: Whole
    heldout_rows: Positive
    debug: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out questions answered at the end of each phase.

    Attributes:
      questions: at most so many of a family after the last phase.
      interim_questions: the same after each phase before it.
      answer_tokens: most tokens of an answer.
      rows: questions answered at a time.
    """

    questions: Positive = 200
    interim_questions: Positive = 100
    answer_tokens: Positive = 32
    rows: Positive = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    """The sections of a configuration file."""

    model: Model
    tokenizer: Tokenizer
    optimizer: Optimizer = Optimizer()
    data: Data
    run: Run
    evaluation: Evaluation = Evaluation()
    phases: Mapping[str, Phase]
    curriculum: tuple[Text, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run depends on. `phases` are in the order in which they are trained."""

    model: Model
    tokenizer: Tokenizer
    optimizer: Optimizer
    data: Data
    run: Run
    evaluation: Evaluation
    phases: tuple[Phase, ...]

    @classmethod
    def from_config_dict(cls, config_dict: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
        """Checks and freezes a configuration. Raises ConfigError with everything that is wrong with it."""
        values = config_dict.to_dict() if isinstance(config_dict, ml_collections.ConfigDict) else config_dict
        problems: list[str] = []
        file: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(_File)} | read_fields(_File, values, "", problems)
        problems.extend(_problems_between_sections(file, values))
        if problems:
            raise ConfigError(problems)
        phases, curriculum = file.pop("phases"), file.pop("curriculum")
        return cls(**file, phases=tuple(phases[name] for name in curriculum))

    def resolved(self) -> dict[str, Any]:
        """The configuration with all defaults as plain dictionaries: what from_config_dict takes, and what to_json writes."""
        values: dict[str, Any] = _plain(self)
        phases = values.pop("phases")
        return (
            values
            | {"phases": {phase.name: section for phase, section in zip(self.phases, phases, strict=True)}}
            | {"curriculum": [phase.name for phase in self.phases]}
        )

    def to_json(self) -> str:
        """The resolved configuration as JSON; Config.from_config_dict(json.loads(...)) gives an equal Config back."""
        return json.dumps(self.resolved(), indent=2) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.name != "name"}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _section(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section as written, empty where it is none."""
    section = values.get(key)
    return section if isinstance(section, Mapping) else {}


def _problems_between_sections(file: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    """What depends on several sections. A section that could not be read has its own problem and is passed over."""
    phases: Mapping[str, Phase] = {} if file["phases"] is INVALID else file["phases"]
    sources = _section(_section(values, "data"), "sources")
    for name, phase in phases.items():
        for source in phase.mixture:
            if source not in sources:
                known = ", ".join(sources) or "none"
                yield f"phases.{name}.mixture.{source}: no such source in data.sources ({known}){nearest(source, sources)}"
        if file["model"] is not INVALID:
            for axis, keys in (("tensor", ("heads", "kv_heads", "mlp", "vocabulary")), ("fsdp", ("hidden", "patch_channels"))):
                shards = getattr(phase.mesh, axis)
                for key in keys:
                    size = getattr(file["model"], key)
                    if size % shards:
                        would = near_divisors(size, shards)
                        yield f"phases.{name}.mesh.{axis}: model.{key} {size} does not divide by {shards}: {axis} {would} would"
    if file["curriculum"] is INVALID:
        return
    curriculum: tuple[str, ...] = file["curriculum"]
    named = _section(values, "phases")
    if not curriculum:
        yield "curriculum: is empty: name at least one phase"
    for place, name in enumerate(curriculum):
        if name not in named:
            yield f"curriculum[{place}]: no phase {name!r} in phases{nearest(name, named)}"
        if name in curriculum[:place]:
            yield f"curriculum[{place}]: phase {name!r} stands in it already: give the second one a name of its own"
    known_phases = [phases[name] for name in curriculum if name in phases]
    for before, after in itertools.pairwise(known_phases):
        if (before.architecture, after.architecture) == ("neo", "qwen3"):
            yield f"phases.{after.name}.architecture: is qwen3, but {before.name} before it is neo already: no way leads back"


def parse_command_line(arguments: Sequence[str]) -> Config:
    """The configuration of a command line: --config=FILE[:ARG] --config.section.key=value ..., without the program's name.

    Raises:
      ConfigError: everything that is wrong with the command line or with the configuration.
    """
    return Config.from_config_dict(read_command_line(arguments, _File))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compares two resolved configurations (Config.resolved(), or the JSON beside a run).

    Returns:
      (forbidden, allowed): what changed, as "key: old -> new". Forbidden changes would change the order of the data or the mathematics of
      a run that has begun; allowed ones (MAY_CHANGE) do not.
    """
    before, after = _flat(old), _flat(new)
    forbidden: list[str] = []
    allowed: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            changes = allowed if any(fnmatch.fnmatchcase(key, pattern) for pattern in MAY_CHANGE) else forbidden
            changes.append(f"{key}: {before.get(key, 'absent')!r} -> {after.get(key, 'absent')!r}")
    return forbidden, allowed


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
