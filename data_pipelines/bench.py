"""Measures the input of a configuration on this machine: plans, decodes and packs rows as in training, and discards them.

    python -m data_pipelines.bench --config configs/mine.py
    python -m data_pipelines.bench --config configs/mine.py --phase sft --steps 20 --threads 8 --json

Prints for each phase the time to the first row with a built index, then samples, images, frames and tokens a second, the fill of the rows and the
memory used; and, measured in one thread, where processor time is spent. Missing length indexes are built first.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import pathlib
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from data_pipelines import documents, opened
from data_pipelines.batch import Batch
from data_pipelines.commands import answer, command_parser
from data_pipelines.configuration import Configuration, read_configuration
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.index.opening import NamedTokenizer, open_indexed
from data_pipelines.index.work import cores
from data_pipelines.loading import decoding, loader
from data_pipelines.loading.loader import RowLoader
from data_pipelines.planning.planner import Planner
from data_pipelines.schema import DataError, PhaseSettings, Sample
from data_pipelines.sources import Source
from data_pipelines.text.tokenizers import Tokenizer

# The functions that are timed, by stage: (module or class in which the pipeline looks up the function, its name). If one of these functions
# calls another, the time counts for the inner one only.
STAGES: dict[str, Sequence[tuple[Any, str]]] = {
    "planning": ((Planner, "planned"),),
    "headers": ((documents.images, "image_size"), (documents.video, "probe")),
    "decoding images": ((opened.images, "read_bytes"), (opened.images, "decode"), (opened.images, "degrade")),
    "decoding frames": ((opened.video, "read_frames"),),
    "resizing": ((opened.images, "resize"), (opened.images, "to_visual_tokens")),
    "tokenizing": ((documents.chat, "encode"),),
    "packing": ((decoding, "pack"), (decoding, "arrange"), (loader, "stack")),
}
ROWS, OTHER = "reading rows", "other"


@dataclasses.dataclass(frozen=True)
class PhaseBench:
    """Throughput of the input pipeline in one phase.

    Attributes:
      phase: name of the phase.
      threads, cores: number of decoding threads, and number of cores of this machine.
      rows, seconds: number of rows read, and wall time for them, both without the first step.
      first_row_seconds: seconds from a ready index to the first step's rows.
      samples, images, frames, tokens, visual_tokens: number in these rows per second. Tokens exclude padding and include image tokens.
      cpu_seconds: processor seconds per second of wall time.
      fill, visual_fill: share of the rows' tokens, and of their visual tokens, that is used; the latter is None if the phase has none.
      memory_mib: peak resident memory of the whole process in MiB.
      stages: share of the processor time by stage, measured with one thread.
    """

    phase: str
    threads: int
    cores: int
    rows: int
    seconds: float
    first_row_seconds: float
    samples: float
    images: float
    frames: float
    tokens: float
    visual_tokens: float
    cpu_seconds: float
    fill: float
    visual_fill: float | None
    memory_mib: float
    stages: dict[str, float]

    def lines(self) -> Iterator[str]:
        """Yields the lines of the printed report."""
        yield f"{self.phase}: {self.rows:,} rows in {self.seconds:.1f} s with {self.threads} threads on {self.cores} cores"
        yield f"  to the first row from a ready index: {self.first_row_seconds:.2f} s; at most {self.memory_mib:,.0f} MiB resident"
        visual = "" if self.visual_fill is None else f", visual tokens {self.visual_fill:.1%}"
        yield f"  filled: tokens {self.fill:.1%}{visual}"
        rates = {name: getattr(self, name) for name in ("samples", "images", "frames", "tokens", "visual_tokens")}
        yield "  a second: " + ", ".join(f"{rate:,.0f} {name.replace('_', ' ')}" for name, rate in rates.items())
        of_core = ", ".join(f"{rate / self.cpu_seconds:,.0f} {name.replace('_', ' ')}" for name, rate in rates.items())
        yield f"  a second of one core: {of_core} ({self.cpu_seconds:.2f} cores were busy)"
        yield "  in one thread: " + ", ".join(f"{name} {share:.0%}" for name, share in self.stages.items() if share >= 0.005)


def bench(configuration: Configuration, phases: Sequence[str], steps: int, threads: int) -> Iterator[PhaseBench]:
    """Measures the input pipeline in each of these phases; in all phases if `phases` is empty.

    Args:
      configuration: configuration with a tokenizer and an index folder.
      phases: names of the phases.
      steps: number of steps that are timed in each phase, after the first step.
      threads: number of decoding threads.

    Raises DataError if the configuration or data cannot be used.
    """
    configuration.require_index()
    names = [phase.name for phase in configuration.phases]
    if missing := [name for name in phases if name not in names]:
        raise DataError(f"there is no phase {', '.join(missing)}; the phases are {', '.join(names)}")
    named = NamedTokenizer.load(configuration.tokenizer, configuration.add_special_tokens)
    opened = list(open_indexed(configuration.training, named, pathlib.Path(configuration.index_folder).expanduser()))
    sources, indexes = [source for source, _ in opened], [index for _, index in opened]
    for phase in configuration.phases:
        if not phases or phase.name in phases:
            yield _bench_phase(phase, sources, indexes, named.tokenizer, configuration, steps, threads)


def _bench_phase(
    phase: PhaseSettings,
    sources: Sequence[Source],
    indexes: Sequence[LengthIndex],
    tokenizer: Tokenizer,
    configuration: Configuration,
    steps: int,
    threads: int,
) -> PhaseBench:
    steps = min(steps, phase.rows // phase.rows_per_step - 1)
    if steps < 1:
        raise DataError(f"phase {phase.name} has {phase.rows // phase.rows_per_step} steps; two at least are needed to time one")

    def read(threads: int, sources: Sequence[Source]) -> _Read:
        with tempfile.TemporaryDirectory() as folder:  # for the log of failed samples
            began = time.perf_counter()
            log = pathlib.Path(folder) / "skipped.jsonl"
            rows = RowLoader(sources, indexes, [phase], tokenizer, configuration.seed, configuration.policy, log, threads)
            with contextlib.closing(rows.batches(rows.start())) as batches:
                next(batches)
                first, cpu = time.perf_counter(), time.process_time()
                counted = [_count(batch) for batch, _ in (next(batches) for _ in range(steps))]
                seconds, cpu = time.perf_counter() - first, time.process_time() - cpu
            samples = rows.failures.samples - rows.failures.failed
            return _Read(first - began, seconds, cpu, samples * steps / (steps + 1), np.sum(counted, axis=0))

    found = read(threads, sources)
    clock = _Clock()
    with clock.watching():
        read(1, [_TimedSource(source, clock) for source in sources])
    read_alone = max(1, clock.counts["__getitem__"])  # not `samples`: the loader reads ahead of the timed steps
    images, frames = (clock.counts[name] / read_alone * found.samples for name in ("decode", "read_frames"))
    rows = steps * phase.rows_per_step
    tokens, visual = found.counted.tolist()
    total = max(clock.total, sum(clock.seconds.values()))
    stages = {name: clock.seconds[name] / total for name in (ROWS, *STAGES)}
    stages[OTHER] = 1 - sum(stages.values())
    return PhaseBench(
        phase=phase.name,
        threads=threads,
        cores=cores(),
        rows=rows,
        seconds=found.seconds,
        first_row_seconds=found.first,
        samples=found.samples / found.seconds,
        images=images / found.seconds,
        frames=frames / found.seconds,
        tokens=tokens / found.seconds,
        visual_tokens=visual / found.seconds,
        cpu_seconds=found.cpu / found.seconds,
        fill=tokens / (rows * phase.context),
        visual_fill=visual / (rows * phase.visual_tokens) if phase.visual_tokens else None,
        memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform != "darwin" else 2**20),
        stages=stages,
    )


class _Read(NamedTuple):
    """One pass: seconds to the first step; wall and processor seconds of the other steps; samples, tokens and visual tokens in them."""

    first: float
    seconds: float
    cpu: float
    samples: float
    counted: np.ndarray


def _count(batch: Batch) -> tuple[int, int]:
    """Returns the number of tokens (without padding) and of visual tokens of a batch."""
    return int(np.count_nonzero(batch.source >= 0)), int(np.count_nonzero(batch.inputs.visual_slot >= 0))


class _Clock:
    """Measures processor time by stage and counts calls by function, in all threads, inside the context `watching`."""

    def __init__(self) -> None:
        self.seconds: collections.Counter[str] = collections.Counter()
        self.counts: collections.Counter[str] = collections.Counter()
        self.total = 0.0
        self._lock = threading.Lock()
        self._inner = threading.local()  # seconds spent in timed functions that the current function called

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Times the functions of STAGES while the context is open."""
        began = time.process_time()
        with contextlib.ExitStack() as patches:
            for stage, functions in STAGES.items():
                for owner, name in functions:
                    wrap = self.timed_iterator if name == "read_frames" else self.timed
                    patches.enter_context(mock.patch.object(owner, name, wrap(stage, getattr(owner, name))))
            yield
        self.total = time.process_time() - began

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            with self._measuring(stage, function.__name__):
                return function(*arguments, **options)

        return call

    def timed_iterator(self, stage: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Iterator[Any]:
            items = function(*arguments, **options)
            while True:
                with self._measuring(stage, ""):
                    item = next(items, None)
                if item is None:
                    return
                with self._lock:
                    self.counts[function.__name__] += 1
                yield item

        return call

    @contextlib.contextmanager
    def _measuring(self, stage: str, name: str) -> Iterator[None]:
        before, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
        began = time.thread_time()
        try:
            yield
        finally:
            taken = time.thread_time() - began
            with self._lock:
                self.seconds[stage] += taken - self._inner.seconds
                self.counts[name] += 1
            self._inner.seconds = before + taken


class _TimedSource:
    """A source whose reading of rows is timed."""

    def __init__(self, source: Source, clock: _Clock):
        self._source, self.name, self.settings, self.ignored = source, source.name, source.settings, source.ignored
        self.paths, self.key, self.shards = source.paths, source.key, source.shards
        self._read = clock.timed(ROWS, source.__getitem__)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self._read(index)
        return sample


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 65 for data or a configuration that cannot be used."""
    parser = command_parser("bench", __doc__, "0 timed, 2 a flag is wrong, 65 the configuration or its data cannot be used")
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the configuration")
    parser.add_argument("--phase", action="append", default=[], metavar="NAME", help="a phase; may be repeated (default: all)")
    parser.add_argument("--steps", type=int, default=20, help="steps of each phase that are timed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=cores(), help="that decode (default: one for each core, %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a phase and nothing else")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.threads < 1:
        parser.error("--steps and --threads must be 1 or more")

    def work() -> None:
        for found in bench(read_configuration(options.config), options.phase, options.steps, options.threads):
            print(json.dumps(dataclasses.asdict(found)) if options.json else "\n".join(found.lines()), flush=True)

    return answer("bench", work)


if __name__ == "__main__":
    sys.exit(main())
