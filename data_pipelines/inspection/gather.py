"""Gathers the facts about the training input of each phase that a page of `inspect` shows."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.batch import Batch
from data_pipelines.documents import build_document, clip_seed
from data_pipelines.failures import counts_text
from data_pipelines.index.lengths import LengthIndex, sample_seed
from data_pipelines.index.measures import inspect
from data_pipelines.loading.rows import pack
from data_pipelines.media.video import choose_frames
from data_pipelines.planning.planner import BUDGETS, InputState, Planner, budgets
from data_pipelines.progress import progress
from data_pipelines.schema import Document, PhaseSettings, SampleError
from data_pipelines.sources import Source
from data_pipelines.text.tokenizers import Tokenizer

LOOKED_AT = 2000  # largest number of samples of a phase whose headers are read for the histograms
THREADS = 4


class SourceFacts(NamedTuple):
    """One source in one phase.

    Attributes:
      name: name of the source.
      weight: share of the phase's samples in the mixture.
      tokens: share of the phase's tokens, in the planned rows.
      usable: number of samples that can be read and are kept.
      epochs: number of epochs read of the source (at the start of the phase, at its end).
      dropped: sentences about data that is left out, converted or not read, with the reasons.
    """

    name: str
    weight: float
    tokens: float
    usable: int
    epochs: tuple[float, float]
    dropped: list[str]


class ShownDocument(NamedTuple):
    """A document of a shown row: name of the source, key, first token in the row, and the document itself."""

    source: str
    key: str
    start: int
    document: Document


class ShownRow(NamedTuple):
    """A packed row: its arrays, its documents, and a sentence for each of its samples that cannot be decoded."""

    batch: Batch
    documents: list[ShownDocument]
    failures: list[str]


class PhaseFacts(NamedTuple):
    """One phase.

    Attributes:
      phase: settings of the phase.
      sources: facts about the sources of the mixture.
      fill: mean share of each budget (BUDGETS) that the planned rows use.
      planned: number of planned rows.
      fills: [planned] share of the context that each row uses.
      lengths: [n, 2] tokens and visual tokens of the documents of these rows.
      sizes: [i, 2] height and width of the images, as in the files, of up to LOOKED_AT documents.
      frames: number of shown frames of each clip of the same documents.
      rows: the first rows.
    """

    phase: PhaseSettings
    sources: list[SourceFacts]
    fill: dict[str, float]
    planned: int
    fills: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    frames: list[int]
    rows: list[ShownRow]


def gather(
    phases: Sequence[PhaseSettings], sources: Sequence[Source], indexes: Sequence[LengthIndex], tokenizer: Tokenizer, seed: int, shown: int
) -> Iterator[PhaseFacts]:
    """Yields the facts of each phase in order.

    Args:
      phases: the curriculum.
      sources: sources in the order of the configuration.
      indexes: length indexes of the same sources.
      tokenizer: tokenizer of the run.
      seed: seed of the run.
      shown: number of rows that are decoded and shown.

    Raises:
      DataError: as Planner.
    """
    read = np.zeros(len(sources))  # number of samples of each source read before the phase
    for number, phase in enumerate(phases):
        planner = Planner(number, phase, indexes, seed, InputState(number, 0, 0, (0,) * len(sources)))
        count = min(planner.block_rows, phase.rows)
        draws = [planner.row(row) for row in range(count)]
        lengths = planner.lengths([draw for row in draws for draw in row])
        rows = np.repeat(np.arange(count), [len(row) for row in draws])
        used = np.stack([np.bincount(rows, lengths[:, column], count) for column in range(len(BUDGETS))], axis=1)
        of_source = np.array([draw.source for row in draws for draw in row])
        after = read + np.bincount(of_source, minlength=len(sources)) * phase.rows / count
        facts = [
            _source_facts(
                source, index, phase, planner, lengths[of_source == place, 0].sum() / lengths[:, 0].sum(), (read[place], after[place])
            )
            for place, (source, index) in enumerate(zip(sources, indexes, strict=True))
            if source.name in phase.mixture
        ]
        sizes, frames = _headers([draw for row in draws for draw in row][:LOOKED_AT], sources, phase, tokenizer, seed)
        limits = budgets(phase)
        fill = {name: used[:, i].mean() / limits[i] for i, name in enumerate(BUDGETS) if limits[i]}
        packed = [
            _row(planner, row, sources, tokenizer, seed) for row in progress(range(min(shown, count)), shown, f"rows of {phase.name}")
        ]
        yield PhaseFacts(phase, facts, fill, count, used[:, 0] / phase.context, lengths[:, :2], sizes, frames, packed)
        read = after


def _source_facts(
    source: Source, index: LengthIndex, phase: PhaseSettings, planner: Planner, tokens: float, read: tuple[float, float]
) -> SourceFacts:
    too_long = planner.too_long[source.name]
    usable = too_long.usable
    dropped = []
    if too_long.filtered:
        dropped.append(
            f"{too_long.filtered:,} of {too_long.filtered + usable:,} are left out by `keep` ({'; '.join(source.settings.keep)})"
        )
    if index.unusable:
        dropped.append(
            f"{sum(index.unusable.values()):,} of {len(index):,} samples cannot be used ({counts_text(index.unusable)}): {index.log}"
        )
    if too_long.total:
        over = [f"{passed:,} pass {name}" for name, passed in zip(BUDGETS, too_long.passed.tolist(), strict=True) if passed]
        if too_long.not_taken:
            over.append(f"{too_long.not_taken:,} are of a kind that the phase does not take")
        dropped.append(f"{too_long.total:,} of {usable:,} do not fit a row ({', '.join(over)})")
    if index.conversions:
        dropped.append(f"converted pictures: {counts_text(index.conversions)}")
    if source.ignored:
        dropped.append(f"keys that are not read: {', '.join(sorted(source.ignored))}")
    weight = phase.mixture[source.name] / sum(phase.mixture.values())
    epoch = len(index.usable)
    return SourceFacts(source.name, weight, float(tokens), usable, (read[0] / epoch, read[1] / epoch), dropped)


def _headers(
    draws: Sequence[tuple[int, int, int]], sources: Sequence[Source], phase: PhaseSettings, tokenizer: Tokenizer, seed: int
) -> tuple[npt.NDArray[np.int64], list[int]]:
    def one(place: tuple[int, int]) -> tuple[list[tuple[int, int]], list[int]]:
        source, number = sources[place[0]], place[1]
        try:
            measured = inspect(source[number], tokenizer)
        except SampleError:
            return [], []
        own = sample_seed(seed, source.name, number)
        return list(measured.sizes), [len(choose_frames(info, phase, clip_seed(own, k))) for k, info in enumerate(measured.clips)]

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = list(progress(pool.map(one, [(draw[0], draw[1]) for draw in draws]), len(draws), f"headers of phase {phase.name}"))
    sizes = [size for images, _ in found for size in images]
    return np.array(sizes, np.int64).reshape(-1, 2), [count for _, frames in found for count in frames]


def _row(planner: Planner, row: int, sources: Sequence[Source], tokenizer: Tokenizer, seed: int) -> ShownRow:
    documents: list[ShownDocument] = []
    numbers: list[int] = []
    failures: list[str] = []
    start = 0
    for draw in planner.row(row):
        source = sources[draw.source]
        try:
            sample = source[draw.sample]
            document = build_document(sample, planner.phase, tokenizer, sample_seed(seed, source.name, draw.sample))
        except SampleError as error:
            failures.append(str(error))
            continue
        documents.append(ShownDocument(source.name, sample.key, start, document))
        numbers.append(draw.source)
        start += len(document.tokens)
    batch = pack([shown.document for shown in documents], numbers, planner.phase, tokenizer.special["<IMG_CONTEXT>"])
    return ShownRow(batch, documents, failures)
