"""Opens the data of a run: tokenizer, sources, length indexes, training rows and held-out rows."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
from jax.sharding import Mesh

from data_pipelines.batch import Batch, map_arrays
from data_pipelines.failures import FailurePolicy
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.index.opening import NamedTokenizer, open_indexed
from data_pipelines.loading.loader import RowLoader, rows_ahead
from data_pipelines.planning.planner import ORDER_VERSION, budgets
from data_pipelines.planning.too_long import find_too_long
from data_pipelines.schema import DataError, PhaseSettings, SourceSettings
from data_pipelines.sources import Source
from data_pipelines.text.tokenizers import Tokenizer
from neo_jax import config
from neo_jax.processes import exchange
from neo_jax.processes.shared_rows import SharedRows, count_reading
from neo_jax.sharding import held_part, owners_of, to_devices


@dataclasses.dataclass(frozen=True)
class RunData:
    """The opened data of a run.

    Attributes:
      tokenizer: the tokenizer of the run.
      sources: training sources, in the order in which batches number them.
      heldout: held-out sources, in the order of the configuration.
      heldout_indexes: length index of each held-out source.
      train: loader of the training rows of all phases.
      indexes: length index of each training source.
      settings: the configuration.
      process: index of this process.
    """

    tokenizer: Tokenizer
    sources: list[Source]
    heldout: list[Source]
    heldout_indexes: list[LengthIndex]
    train: RowLoader
    indexes: list[LengthIndex]
    settings: config.Config
    process: int = 0

    @functools.cached_property
    def identity(self) -> dict[str, str]:
        """Everything except the configuration that the order of the data depends on: planner version, digests of tokenizer and sources."""
        shared = {"tokenizer": self.tokenizer.fingerprint, "the order of rows": str(ORDER_VERSION)}
        return shared | {f"source {index.name}": index.digest() for index in self.indexes}

    def heldout_batches(
        self, phase: PhaseSettings, rows: int, own: Sequence[int], context_shards: int = 1
    ) -> tuple[list[str], list[Batch]]:
        """Reads held-out rows, the same each time, for the current mesh. A source none of whose samples fits a row of the phase is left out.

        Args:
          rows: rows of a batch; about as many are read of each source.
          own: indexes of the rows of a batch that this process reads.
          context_shards: number of parts that each row is divided into.

        Returns:
          The names of the sources in the order in which batches number them, and the batches, each with the `own` rows only. Both are empty if
          no source fits.
        """
        fitting = [
            (source, index)
            for source, index in zip(self.heldout, self.heldout_indexes, strict=True)
            if (found := find_too_long(index.lengths(phase, self.settings.run.seed), index.usable, budgets(phase))).total < found.usable
        ]
        if not fitting:
            return [], []
        sources, indexes = (list(each) for each in zip(*fitting, strict=True))
        names = [source.name for source in sources]
        threads = self.settings.data.threads
        mixture = dict.fromkeys(names, 1.0)
        phase = dataclasses.replace(phase, rows=rows * len(names), rows_per_step=rows, mixture=mixture, jpeg_quality=(0, 0))
        loader = RowLoader(
            sources,
            indexes,
            [phase],
            self.tokenizer,
            self.settings.run.seed,
            _policy(self.settings.data),
            skipped_log(self.settings, "skipped_heldout", self.process),
            threads,
            names_excluded=self.process == 0,
        )
        share = share_of_rows(own, rows, threads)
        return names, [batch for batch, _ in loader.batches(loader.start(), own, context_shards, share=share)]


def skipped_log(settings: config.Config, name: str, process: int) -> pathlib.Path:
    """Returns the path of a log in the run directory: NAME.jsonl for process 0, NAME.<process>.jsonl for the others."""
    return pathlib.Path(settings.run.directory) / (f"{name}.{process}.jsonl" if process else f"{name}.jsonl")


def open_run_data(settings: config.Config, process: int = 0, stop: Callable[[], bool] | None = None) -> RunData:
    """Opens tokenizer and sources, and builds the length indexes that are missing.

    Args:
      process: index of this process. Only process 0 logs the samples that the indexes exclude.
      stop: called from time to time while an index is built; if it returns True, building ends and what was measured is kept.

    Raises:
      DataError: a file is missing or unusable, or the tokenizer does not fit the model.
      Interrupted: `stop` returned True.
    """
    named = NamedTokenizer.load(settings.tokenizer.path, settings.tokenizer.add_special_tokens)
    tokenizer = named.tokenizer
    if tokenizer.vocabulary > settings.model.vocabulary:
        raise DataError(
            f"tokenizer {settings.tokenizer.path} has {tokenizer.vocabulary} ids, model.vocabulary is {settings.model.vocabulary}: "
            "raise model.vocabulary or use another tokenizer"
        )
    folder = pathlib.Path(settings.data.index_folder)
    sources, indexes = _open(settings.data.sources, named, folder, settings.data.threads, stop)
    heldout, heldout_indexes = _open(settings.data.heldout, named, folder / "heldout", settings.data.threads, stop)
    train = RowLoader(
        sources,
        indexes,
        [phase.input() for phase in settings.phases],
        tokenizer,
        settings.run.seed,
        _policy(settings.data),
        skipped_log(settings, "skipped", process),
        settings.data.threads,
        names_excluded=process == 0,
    )
    return RunData(tokenizer, sources, heldout, heldout_indexes, train, indexes, settings, process)


def _open(
    sources: Mapping[str, SourceSettings], named: NamedTokenizer, folder: pathlib.Path, threads: int, stop: Callable[[], bool] | None
) -> tuple[list[Source], list[LengthIndex]]:
    opened = list(open_indexed(list(sources.values()), named, folder, threads, stop))
    return [source for source, _ in opened], [index for _, index in opened]


def _policy(data: config.Data) -> FailurePolicy:
    return FailurePolicy(data.max_failure_rate, data.max_failure_run, data.minimum_samples)


def accumulated(batch: Batch, accumulate: int) -> Batch:
    """Adds the axis of gradient accumulation: arrays [rows, ...] become [accumulate, rows / accumulate, ...]."""
    return map_arrays(lambda array: array.reshape(accumulate, len(array) // accumulate, *array.shape[1:]), batch)


def local_rows(rows: int, accumulate: int, own: Sequence[range]) -> list[int]:
    """Returns the indexes of the rows of a step that this process reads, in the order that `accumulated` expects.

    Args:
      rows: rows of a step.
      accumulate: number of passes that the rows are divided into.
      own: ranges of rows of one pass that the devices of this process hold, ascending.
    """
    rows_per_pass = rows // accumulate
    return [number * rows_per_pass + row for number in range(accumulate) for part in own for row in part]


def share_of_rows(local: Sequence[int], rows_per_step: int, threads: int) -> SharedRows | None:
    """Returns this process's share of its rows on the current mesh; None if it holds the whole of each.

    Args:
      local: indexes of the rows of a step that it reads.
      threads: number of threads that decode rows.
    """
    held = held_part(owners_of(jax.sharding.get_mesh()), jax.process_index())
    if len(held.processes) == 1:
        count_reading()
        return None
    steps = -(-rows_ahead(len(local), threads) // len(local))
    return SharedRows(held.shards, held.processes, ahead=steps * rows_per_step)


def check_same(data: RunData) -> None:
    """Raises DataError, in every process, if the processes have opened different data."""
    first, *others = exchange.gather(data.identity | {f"held-out source {index.name}": index.digest() for index in data.heldout_indexes})
    for number, other in enumerate(others, 1):
        if changed := [name for name in first if first[name] != other[name]]:
            raise DataError(
                f"process {number} reads different data from process 0: {', '.join(changed)}; give all processes the same files"
            )


def on_devices(accumulate: int, mesh: Mesh, batch: Batch) -> Batch:
    """Copies a batch to the devices. Runs in the loader's thread, in parallel with the training step."""
    with jax.set_mesh(mesh):
        return to_devices(accumulated(batch, accumulate), accumulation_axis=True)
