"""Reads packed rows from a given state on; threads decode them while the step runs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import grain

from data_pipelines.batch import BATCHES_AHEAD, Batch, stack
from data_pipelines.failures import FailurePolicy, Failures
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.loading.decoding import Decoded, Failure, RowDecoder, Share
from data_pipelines.loading.spliced import Earlier, Span, SplicedPlanner
from data_pipelines.planning.advice import Advice
from data_pipelines.planning.forecast import Forecast, forecast
from data_pipelines.planning.planner import BLOCK_ROWS, InputState, Planner, check_mixture, exceeded, whole_steps
from data_pipelines.planning.too_long import TooLong
from data_pipelines.schema import DataError, PhaseSettings
from data_pipelines.sources import Source
from data_pipelines.text.tokenizers import Tokenizer

LAID_OUT_AT_ONCE = 2_000_000  # samples: a second or less for each phase


class PhaseLayout(NamedTuple):
    """Facts about a phase from the lengths of all samples.

    Attributes:
      too_long: samples that are too long for the phase, by name of the source, for each source of its mixture.
      advice: better budgets if the phase's budgets leave rows partly empty; else None.
    """

    too_long: Mapping[str, TooLong]
    advice: Advice | None


class RowLoader:
    """Reads the rows of all phases.

    With up to LAID_OUT_AT_ONCE samples, the constructor computes the layouts of all phases; else each is computed when its phase begins.

    Args:
      sources: sources in the order of the configuration; `source` of a batch is an index into them.
      indexes: length indexes of the same sources.
      phases: the curriculum.
      tokenizer: tokenizer with which the indexes were built.
      seed: seed of the run, for the order of samples and the choice of video frames.
      policy: limits on failed samples at which the run stops.
      log: path of a JSON lines file that lists the samples that no phase can use (as far as the indexes' logs list them), that failed at
        decoding, or that are too long for a phase (up to too_long.NAMED of each source and phase). Each process has its own file.
      threads: number of threads that decode rows; it does not change the rows.
      block_rows: largest number of rows planned together. The order of the data depends on it.
      names_excluded: True to list in the log also the samples that the indexes exclude; one of several processes does.

    Attributes:
      forecast: estimate of how often the phases will read each source.
      failures: counts of samples that failed at decoding in the rows that `batches` delivered. With several processes, each counts its own
        rows and applies the policy to these alone.

    Raises:
      DataError: sources and indexes do not match, a mixture is invalid, no sample of a source fits a phase whose layout is computed,
        the indexes exclude a larger share of a source than the policy allows, or max_epochs leave too little data for a phase.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        indexes: Sequence[LengthIndex],
        phases: Sequence[PhaseSettings],
        tokenizer: Tokenizer,
        seed: int,
        policy: FailurePolicy,
        log: str | pathlib.Path,
        threads: int,
        block_rows: int = BLOCK_ROWS,
        names_excluded: bool = True,
    ):
        names = [source.name for source in sources]
        if names != [index.name for index in indexes] or len(set(names)) != len(names):
            raise DataError(f"sources {names} and indexes {[index.name for index in indexes]} must have the same names, each once")
        if not phases:
            raise DataError("the input has no phases")
        if threads < 1 or block_rows < 1:
            raise DataError(f"threads ({threads}) and block_rows ({block_rows}) must be at least 1")
        self._sources, self._indexes, self._phases = list(sources), list(indexes), tuple(phases)
        self._tokenizer, self._seed, self._threads, self._block_rows = tokenizer, seed, threads, block_rows
        self.failures = Failures(pathlib.Path(log), policy)
        self._planner: SplicedPlanner | None = None
        self._earlier: Sequence[Earlier] = ()
        self._ends: Mapping[str, Sequence[int]] = {}
        self._names_excluded = names_excluded
        for index in indexes:
            _check_index(index, policy)
            for line in index.log.read_text(encoding="utf-8").splitlines() if names_excluded else ():
                self.failures.name(**json.loads(line))
        self.forecast = _checked_forecast(self._phases, indexes, seed)
        self._laid_out: dict[int, PhaseLayout] = {}
        samples = sum(map(len, indexes))
        for number in range(len(phases)):
            if samples <= LAID_OUT_AT_ONCE:
                self.layout(number)

    def layout(self, phase: int) -> PhaseLayout:
        """Returns the samples that are too long for a phase, and better budgets for it.

        The first call for a phase, or the first reading of its rows, examines all samples. Raises DataError as `__init__`.
        """
        if phase not in self._laid_out:
            planner = self._plan(self._phases[phase], InputState(phase, 0, 0, (0,) * len(self._sources)))
            self._laid_out[phase] = PhaseLayout(planner.too_long, planner.advice())
            for index in self._indexes:
                index.save_pieces()
        return self._laid_out[phase]

    @property
    def laid_out(self) -> list[int]:
        """Numbers of the phases whose layouts were computed, ascending."""
        return sorted(self._laid_out)

    def epochs(self, state: InputState) -> dict[str, float]:
        """Returns the epochs read of each source, by name, at the start of the block of rows that contains `state`. Unread sources are omitted."""
        read = zip(self._indexes, state.positions, strict=True)
        return {index.name: position / len(index.usable) for index, position in read if position}

    def start(self) -> InputState:
        """Returns the state before the first row of the first phase."""
        return InputState(0, 0, 0, (0,) * len(self._sources))

    def batches(
        self,
        state: InputState,
        local_rows: Sequence[int] | None = None,
        context_shards: int = 1,
        prepare: Callable[[Batch], Any] = lambda batch: batch,
        share: Share | None = None,
    ) -> Generator[tuple[Any, InputState]]:
        """Yields each step's rows and the state after the step, to the end of the state's phase.

        The last state is the start of the next phase. The rows depend on the state alone, not on the threads or on the distribution of rows
        over processes. Closing the generator stops the threads.

        Args:
          state: state to begin from.
          local_rows: positions, within a step, of the rows that this process reads, in this order; None for all.
          context_shards: number of context shards that each row is arranged for (shards.arrange). It does not change which rows are read.
          prepare: function applied to each batch, such as copying it to the devices. A thread runs it up to BATCHES_AHEAD batches in advance,
            concurrently with the step; its results are yielded.
          share: the context shards of its rows that this process holds, if other processes hold the others: only the images of which it holds
            a part are decoded. None: it holds all. Closed with the generator.

        Raises:
          DataError: local_rows or the state do not fit the phase's rows_per_step, or more samples failed than the policy allows.
        """
        if not 0 <= state.phase < len(self._phases):
            raise DataError(f"the state {state} is past the last of the {len(self._phases)} phases: nothing is left to read")
        phase = self._phases[state.phase]
        rows_per_step = phase.rows_per_step
        local = list(range(rows_per_step)) if local_rows is None else list(local_rows)
        if state.row % rows_per_step:
            raise DataError(f"the state's row {state.row} is not the first of a step: phase {phase.name!r} has {rows_per_step} rows a step")
        if not local or not all(0 <= offset < rows_per_step for offset in local):
            raise DataError(f"local rows {local} must be among the {rows_per_step} rows of a step, at least one")
        self.layout(state.phase)
        return self._batches(self._spliced(state), state, local, context_shards, prepare, share)

    def keys(self, phase: int, row: int) -> list[str]:
        """Returns the keys of a row's samples as SOURCE/KEY, for messages.

        Raises DataError unless the phase is the one being read and the row lies in a block that was planned.
        """
        planner = self._planner
        if planner is None or planner.number != phase:
            raise DataError(f"phase {phase} is not being read")
        return [f"{self._sources[draw.source].name}/{self._sources[draw.source].key(draw.sample)}" for draw in planner.row(row)]

    def plan_earlier(self, earlier: Sequence[Earlier]) -> None:
        """Sets earlier settings of phases, by name: rows before each `until` are planned with these, as they were originally."""
        self._earlier = sorted(earlier, key=lambda each: each.until)

    def plan_continued(self, ends: Mapping[str, Sequence[int]]) -> None:
        """Sets the rows at which phases, by name, had ended before they got more steps, ascending: rows from there on are planned anew."""
        self._ends = {name: tuple(rows) for name, rows in ends.items()}

    def next_block(self, state: InputState) -> int:
        """Returns the first row of a block, at or after the row of the state, in the state's phase."""
        phase = self._phases[state.phase]
        start = max(row for row in self._starts(phase) if row <= state.row)
        rows = whole_steps(self._block_rows, phase)
        return start + -(-(state.row - start) // rows) * rows

    def _starts(self, phase: PhaseSettings) -> tuple[int, ...]:
        """Returns the rows from which blocks of a phase are counted."""
        return (0, *(row for row in self._ends.get(phase.name, ()) if row < phase.rows))

    def _spliced(self, state: InputState) -> SplicedPlanner:
        phase = self._phases[state.phase]
        spans: list[Span] = []
        for start, end in itertools.pairwise((*self._starts(phase), phase.rows)):
            part = dataclasses.replace(phase, rows=end - start)
            spans += [
                Span(start, each.until, functools.partial(self._plan_earlier, part, each))
                for each in self._earlier
                if each.phase == phase.name and start < each.until <= end
            ]
            if not spans or spans[-1].until < end:
                spans.append(Span(start, end, functools.partial(self._plan, part)))
        return SplicedPlanner(phase, [span for span in spans if state.row < span.until], state)

    def _plan_earlier(self, part: PhaseSettings, earlier: Earlier, state: InputState) -> Planner:
        phase = dataclasses.replace(part, mixture=earlier.mixture)
        indexes = [index.limited(*earlier.limits[index.name]) if index.name in earlier.limits else index for index in self._indexes]
        return Planner(state.phase, phase, indexes, self._seed, state, self._block_rows)

    def _plan(self, part: PhaseSettings, state: InputState) -> Planner:
        known = self._laid_out.get(state.phase)
        too_long = known.too_long if known else None
        return Planner(state.phase, part, self._indexes, self._seed, state, self._block_rows, too_long)

    def _batches(
        self,
        planner: SplicedPlanner,
        state: InputState,
        local: list[int],
        context_shards: int,
        prepare: Callable[[Batch], Any],
        share: Share | None,
    ) -> Generator[tuple[Any, InputState]]:
        self._planner = planner
        if self._names_excluded:
            self._name_too_long(planner.phase, self.layout(planner.number))
        rows_per_step = planner.phase.rows_per_step
        steps = (planner.phase.rows - state.row) // rows_per_step

        decoder = RowDecoder(self._sources, self._indexes, self._tokenizer, self._seed, context_shards, share)

        def decode(number: int) -> Decoded:
            step, offset = divmod(number, len(local))
            return decoder.decode(planner, state.row + step * rows_per_step + local[offset])

        reading = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=rows_ahead(len(local), self._threads))
        rows = grain.MapDataset.range(steps * len(local)).map(decode).to_iter_dataset(reading)
        batches = rows.batch(len(local), drop_remainder=True, batch_fn=_stack).map(lambda pair: (prepare(pair[0]), pair[1]))
        iterator = iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=BATCHES_AHEAD - 1))
        try:
            for step in range(1, steps + 1):
                batch, failures = next(iterator)
                for failure in failures:
                    if isinstance(failure, str):
                        self.failures.succeed(failure)
                    else:
                        self.failures.fail(*failure)
                yield batch, planner.state(state.row + step * rows_per_step)
        finally:
            if share is not None:
                share.close()
            iterator.close()

    def _name_too_long(self, phase: PhaseSettings, layout: PhaseLayout) -> None:
        sources = {source.name: source for source in self._sources}
        for name, found in layout.too_long.items():
            for sample, lengths in zip(found.samples.tolist(), found.lengths.tolist(), strict=True):
                over = exceeded(lengths, phase)
                message = f"does not fit a row of phase {phase.name!r}: {', '.join(over)}; raise the budget or split the sample"
                self.failures.name(name, sources[name].key(sample), "too_long", message)


def rows_ahead(local: int, threads: int) -> int:
    """Returns how many of its rows a process decodes in advance, of `local` in each step.

    Only as many as the next step needs: a row of a long context has tens of megabytes.
    """
    return max(local, threads)


def _stack(rows: Sequence[Decoded]) -> tuple[Batch, list[Failure | str]]:
    return stack([decoded.row for decoded in rows]), [failure for decoded in rows for failure in decoded.failures]


def _checked_forecast(phases: Sequence[PhaseSettings], indexes: Sequence[LengthIndex], seed: int) -> Forecast:
    for phase in phases:
        check_mixture(phase, [index.name for index in indexes])
    found = forecast(phases, indexes, seed)
    if found.short:
        limits = ", ".join(f"{index.name} {index.max_epochs:g}" for index in indexes if index.max_epochs)
        raise DataError(
            f"the data does not suffice for phase {found.short!r}: all sources of its mixture will be used up before its last row (max_epochs: "
            f"{limits}): raise max_epochs, add a source, or take fewer steps"
        )
    return found


def _check_index(index: LengthIndex, policy: FailurePolicy) -> None:
    """Raises DataError with a summary if the index excludes too large a share of its source."""
    excluded = sum(index.unusable.values())
    if policy.exceeded(excluded, len(index) - index.filtered, whole=True):
        counts = ", ".join(f"{count} {reason}" for reason, count in index.unusable.most_common())
        raise DataError(
            f"{excluded} of the {len(index)} samples of source {index.name!r} cannot be used ({counts}), more than {policy.max_rate:.2%}; "
            f"they are named in {index.log}"
        )
