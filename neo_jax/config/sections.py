"""The sections of a configuration: model, tokenizer, optimizer, data, run, evaluation."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from data_pipelines.failures import FailurePolicy
from data_pipelines.schema import SourceSettings
from data_pipelines.sources import FORMATS
from neo_jax.config.benchmark import Benchmark
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
    Text,
    Whole,
)
from neo_jax.config.phase import DTYPES

PATCH_BYTES = 16 * 16 * 3
PATCHES_PER_TOKEN = 4

TRACKERS = ("wandb", "mlflow")
INITIAL_TAKES = ("parameters", "moments", "position")
OVERRIDABLE = (
    *("phases.*.learning_rate", "phases.*.minimum_ratio", "phases.*.warmup_ratio", "phases.*.decay_ratio", "phases.*.rates"),
    *(
        "optimizer.clip_norm",
        "optimizer.z_loss",
        "optimizer.qk_clip",
        "optimizer.weight_decay",
        "optimizer.beta1",
        "optimizer.beta2",
        "optimizer.epsilon",
    ),
)
STALLING_BETA2 = 0.99  # above it, a bfloat16 second moment can hardly decrease: round-to-nearest undoes relative changes below 2^-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The transformer's shape.

    Attributes:
      hidden: width of the residual stream.
      mlp: hidden width of the SwiGLU MLP.
      heads: query heads.
      kv_heads: key/value heads; each is shared by heads / kv_heads query heads.
      head_dim: width of a value and of the temporal part of a query or key; their height and width parts are half as wide.
      base_layers: layers of the language model.
      pre_buffer_layers: new layers before the base layers.
      vocabulary: rows of the embedding table.
      tied: whether the embedding table is also the output matrix.
      rope_theta: rotary base of t, the position in the sequence.
      rope_theta_hw: rotary base of h and w, the position in an image.
      patch_rope_theta: rotary base of x and y in the patch embedding.
      patch_channels: channels between the two convolutions of the patch embedding.
      norm_epsilon: added to the mean square in every RMSNorm.
      mask: "mixed", NEO-ov's: a visual token attends to earlier tokens and to its whole image; or "causal": to itself and earlier tokens, as text.
      positions: "native", NEO-ov's: all tokens of an image share one t and have their row h and column w; or "one_dimensional": t counts every
        token and h and w are 0, so that their channels carry no position.
      pre_buffer: "native", NEO-ov's: its layers take all tokens; or "encoder": they change visual tokens alone, each of which attends within its
        image, as a vision encoder of the same size would. Layers compute all tokens either way. For ablations, as mask and positions.
      initializer_range: standard deviation of random matrices. Qwen3's 0.02 suits widths in the thousands; for narrow models use 1 / sqrt(hidden).
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
    mask: Annotated[str, OneOf(("mixed", "causal"))] = "mixed"
    positions: Annotated[str, OneOf(("native", "one_dimensional"))] = "native"
    pre_buffer: Annotated[str, OneOf(("native", "encoder"))] = "native"
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

    def variant(self) -> list[str]:
        """Returns the settings, KEY=VALUE, in which the model is not NEO-ov's and for which other programs have no field."""
        chosen = {"mask": "mixed", "positions": "native", "pre_buffer": "native"}
        return [f"model.{key}={getattr(self, key)}" for key, official in chosen.items() if getattr(self, key) != official]

    def parameters(self) -> int:
        """Returns the number of parameters of the whole model, pre-buffer and patch embedding included."""
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
      add_special_tokens: True: special tokens of NEO that the tokenizer lacks get the ids after its vocabulary. False: a missing one is an error.
    """

    path: Path
    add_special_tokens: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW, and how its state and the parameters are stored. The update itself is computed in float32.

    Attributes:
      beta1: decay rate of the first moment.
      beta2: decay rate of the second moment.
      epsilon: added to the square root of the second moment.
      weight_decay: decoupled weight decay of matrices, multiplied by the learning rate; norms and biases have none.
      clip_norm: gradients with a larger global norm are scaled down to it.
      z_loss: weight of log(sum(exp(logits)))**2, which the gradient has beside the loss of every label; reported losses do not contain it. 0: none;
        1e-4 is usual.
      qk_clip: after each step, norms of queries and keys whose weights allow a larger attention logit than this are scaled down
        (training/qk_clip.py); 0: they are not. 100 is usual.
      average: decay of an exponential moving average of the parameters that a phase trains: average = decay * average + (1 - decay) * parameters
        after each step, in float32, from their values at the start of the phase, or from the average before if the previous phase trained them too.
        It is saved with checkpoints, evaluated with evaluation.average, and read as RUN:average. 0: there is none; 0.999 is usual.
      mu_dtype: storage type of the first moment.
      nu_dtype: storage type of the second moment; bfloat16 needs a beta2 of at most 0.99.
      parameter_dtype: storage type of the parameters. bfloat16 is rounded stochastically: rounding to nearest would lose small updates.
      offload: stores the moments in host memory and copies them to the devices for each update.
    """

    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.95
    epsilon: AboveZero = 1e-8
    weight_decay: AtLeastZero = 0.01
    clip_norm: AboveZero = 1.0
    z_loss: AtLeastZero = 0.0
    qk_clip: AtLeastZero = 0.0
    average: BelowOne = 0.0
    mu_dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    nu_dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    parameter_dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    offload: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.nu_dtype == "bfloat16" and self.beta2 > STALLING_BETA2:
            yield (
                "nu_dtype",
                f"is bfloat16 with beta2 {self.beta2:g}: the second moment changes by at most 1 - beta2 = {1 - self.beta2:.2g} of itself in a "
                f"step, too little for bfloat16's resolution of 2^-8, so it would stall: use float32, or beta2 of at most {STALLING_BETA2:g}",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Sources of samples, and how many of them may fail.

    Attributes:
      sources: training sources by name, in the order in which batches number them.
      heldout: held-out sources by name; they are never trained on.
      index_folder: folder of the length indexes.
      threads: number of threads that decode samples.
      max_failure_rate: largest share of samples that may be skipped; checked once minimum_samples were tried.
      max_failure_run: the run stops after this many consecutive skipped samples.
      stall_seconds: the process ends with exit code 75 if reading data makes no progress for this long (a dead file system).
      minimum_samples: number of samples tried before max_failure_rate is checked.
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
    """The run directory, and how often a run logs, saves and measures.

    Attributes:
      directory: run directory, with configuration, metrics, checkpoints, answers and report. A run is continued with the same directory.
      initial: where the first phase starts from: the folder of a Qwen3 or NEO checkpoint (config.json and safetensors), or a checkpoint of another
        run: its directory (the newest one), DIRECTORY:STEP or DIRECTORY:PHASE (the last one of a phase); "": random parameters.
      initial_takes: what is taken from a run's checkpoint. "parameters"; "moments": the optimizer's moments too, if the first phase has
        carry_optimizer; "position": the place in the curriculum and in the data too, so that this run goes on as the other would.
      overrides: keys that may change from one start to the next although they change the mathematics of the phase in progress, such as
        phases.sft.learning_rate after a run diverged; config_changes.jsonl records each change and its step.
      seed: seed of random parameters, data order, choice of frames and stochastic rounding.
      log_every: steps between log lines.
      checkpoint_every: steps between checkpoints.
      keep_checkpoints: number of newest checkpoints that are kept, beside the last one of every phase.
      copies: folder, local or s3://BUCKET/KEY or gs://BUCKET/KEY, to which complete checkpoints and the other files of the run directory are
        copied behind the training, so that the run directory may be on a fast disk that the host loses. A start whose run directory is empty fetches
        the copy first. All processes must share the run directory. "": nothing is copied.
      keep_every: checkpoints of every multiple of this step are kept too; 0: none.
      keep_best: number of checkpoints of the latest phase with the lowest mean held-out loss that are kept too, of those saved at a step that
        measured it. RUN:best names the best one.
      heldout_every: steps between measurements of the held-out losses; 0: only at the end of each phase.
      heldout_rows: number of packed rows of each held-out source that are measured.
      bad_steps: what follows a bad step, at which the loss or the gradient is not finite or the loss spikes. Parameters and moments are never
        changed by it. "stop": the run ends with exit code 70; "skip": it goes on with the next step; "rewind": it goes on with the next step from
        the parameters and moments of the last checkpoint, as if all steps since were skipped. incidents.jsonl names rows and samples.
      max_bad_steps: the run stops at more bad steps than this in 1,000 steps.
      spike_factor: a loss above this multiple of the median loss of the last 64 steps of the phase is a spike; 0: no loss is.
      hang_seconds: the process ends with exit code 75, and the stacks of its threads, if a step, its compilation or a checkpoint takes longer than
        this: a device, another process or a file system hangs. Whoever supervises the run starts it again.
      compare_replicas_every: steps between comparisons of the replicas of parameters and moments along mesh.data and mesh.context, which are equal
        bit for bit unless a device computes wrongly. They are also compared before every checkpoint. At a difference the run ends with exit code 75
        and names the device. 0: they are not compared.
      debug: checks the attention intervals on the devices in each step, and stops at an invalid one, naming row and token; slower.
      profile_steps: first and last step, counted over the whole run, of a profiler trace in profile/ of the run directory; (): none. SIGUSR1 asks for
        one of the next steps at any time.
      trackers: services that metrics are also sent to, "wandb" and "mlflow"; their packages are in requirements-tracking.txt.
    """

    directory: Path
    initial: OptionalPath = ""
    initial_takes: Annotated[str, OneOf(INITIAL_TAKES)] = "parameters"
    overrides: tuple[Text, ...] = ()
    seed: Seed = 0
    log_every: Positive = 1
    checkpoint_every: Positive
    keep_checkpoints: Positive = 2
    copies: OptionalPath = ""
    keep_every: Whole = 0
    keep_best: Whole = 0
    heldout_every: Whole
    heldout_rows: Positive
    bad_steps: Annotated[str, OneOf(("stop", "skip", "rewind"))] = "stop"
    max_bad_steps: Positive = 10
    spike_factor: AtLeastZero = 0.0
    hang_seconds: Positive = 3600
    compare_replicas_every: Whole = 0
    debug: bool = False
    profile_steps: tuple[Positive, ...] = ()
    trackers: tuple[Annotated[str, OneOf(TRACKERS)], ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.profile_steps and (len(self.profile_steps) != 2 or self.profile_steps[0] > self.profile_steps[1]):
            yield "profile_steps", f"is {self.profile_steps}, must be the first and the last step of a trace, such as (100, 104), or ()"
        if self.initial_takes != "parameters" and not self.initial:
            yield "initial_takes", f"is {self.initial_takes!r}, but run.initial names no run to take them from"
        for key in self.overrides:
            if not any(fnmatch.fnmatchcase(key, pattern) for pattern in OVERRIDABLE):
                yield "overrides", f"names {key!r}; only these may be overridden: {', '.join(OVERRIDABLE)}"
        if 0 < self.spike_factor <= 1:
            yield (
                "spike_factor",
                f"is {self.spike_factor:g}, so that half of all steps would be spikes: set it well above 1, such as 3, or to 0",
            )
        if found := re.search(r"\[[^/]*\]|\\", os.path.abspath(self.directory)):
            yield (
                "directory",
                f"is {self.directory!r}: checkpoints in a folder with {found[0]!r} in its whole path ({os.path.abspath(self.directory)}) cannot "
                "be read again (the checkpoint library takes it for a pattern): choose a path without [...] and backslash",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out questions answered at the end of each phase, and benchmarks.

    Attributes:
      benchmarks: by name, files of questions that are answered after each phase with pictures, and every benchmark_every steps of it.
      benchmark_every: steps of a phase between two answers to the benchmarks; 0: only after each phase.
      questions: largest number of questions of each family after the last phase.
      interim_questions: largest number of questions of each family after every other phase.
      average: whether held-out losses, questions and benchmarks are asked of the averaged parameters (optimizer.average).
      answer_tokens: largest number of tokens of an answer.
      tokens: largest number of tokens of the questions that are answered at a time, room for the answers and padding counted.
    """

    questions: Positive = 200
    interim_questions: Positive = 100
    average: bool = False
    answer_tokens: Positive = 32
    tokens: Positive = 32_768
    benchmarks: Mapping[str, Benchmark] = dataclasses.field(default_factory=dict)
    benchmark_every: Whole = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in self.benchmarks:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                yield "benchmarks", f"has the name {name!r}: it names a folder, so use letters, digits, _ . and -"
        if self.benchmark_every and not self.benchmarks:
            yield "benchmark_every", f"is {self.benchmark_every}, but there are no benchmarks"
