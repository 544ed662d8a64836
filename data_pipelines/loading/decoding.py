"""Decodes planned rows. Samples that fail are left out; where several processes hold a row, all leave out the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from data_pipelines.batch import Batch
from data_pipelines.documents import open_document
from data_pipelines.index.lengths import LengthIndex, sample_seed
from data_pipelines.loading.rows import pack
from data_pipelines.loading.shards import arrange, held_visual
from data_pipelines.loading.spliced import SplicedPlanner
from data_pipelines.opened import OpenedDocument
from data_pipelines.planning.draws import Draw
from data_pipelines.schema import Document, PhaseSettings, SampleError
from data_pipelines.sources import Source
from data_pipelines.text.tokenizers import Tokenizer


class Failure(NamedTuple):
    source: str
    key: str
    reason: str
    message: str


class Decoded(NamedTuple):
    row: Batch
    failures: list[Failure | str]  # one for each sample of the row, in order; for a usable sample, the name of its source


class Share(Protocol):
    """The part that this process holds of its rows, where other processes hold the rest.

    Attributes:
      shards: its context shards, ascending.
    """

    shards: Sequence[int]

    def gather(self, row: int, part: str, value: Any) -> list[Any]:
        """Returns the values (JSON) that the processes that hold a row give for it and this name; waits for all of them.

        Several threads call it at once. Each process calls it for its rows in ascending order, up to as many in advance as it decodes at once.
        """

    def close(self) -> None:
        """Ends all waiting."""


class RowDecoder:
    """Decodes the rows of a phase.

    Args:
      sources, indexes, tokenizer, seed: as for RowLoader.
      context_shards: number of context shards that each row is arranged for.
      share: the part of the rows that this process holds; None: all of it.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        indexes: Sequence[LengthIndex],
        tokenizer: Tokenizer,
        seed: int,
        context_shards: int = 1,
        share: Share | None = None,
    ):
        self._sources, self._indexes, self._tokenizer, self._seed = sources, indexes, tokenizer, seed
        self._shards, self._share = context_shards, share
        self._image_token = tokenizer.special["<IMG_CONTEXT>"]

    def decode(self, planner: SplicedPlanner, row: int) -> Decoded:
        """Returns a row of the planner's phase. With a share, `visual` contains the pixels of its shards; those of others are zeros or theirs.

        First only the images are decoded of which this process holds a part. If any sample of the row fails in any process that holds the row,
        it is left out, which moves those behind it to other shards: then each process decodes the whole row.
        """
        draws, lengths = planner.planned(row)
        failures: dict[int, Failure] = {}
        documents: dict[int, Document] = {}
        opened: dict[int, OpenedDocument] = {}  # with a share: they hold the encoded media of the whole row
        for number, (draw, planned) in enumerate(zip(draws, lengths.tolist(), strict=True)):
            try:
                document = self._open(draw, planner.phase, planned)
                if self._share is None:
                    documents[number] = document.decoded()
                else:
                    opened[number] = document
            except SampleError as error:
                failures[number] = self._failure(draw, error)
        if self._share is None:
            return self._packed(documents, draws, planner.phase, failures)
        packed = None if failures else self._part(list(opened.values()), planner.phase, draws, failures)
        failures = self._agreed(row, "part", failures)
        if packed is not None and not failures:
            return self._arranged(packed, draws, failures)
        found: dict[int, Failure] = {}
        for number in sorted(opened):
            try:
                documents[number] = opened.pop(number).decoded()
            except SampleError as error:
                found[number] = self._failure(draws[number], error)
        # Of several bad images in a sample the first gives the reason, as in one process, whichever process holds it.
        return self._packed(documents, draws, planner.phase, failures | self._agreed(row, "whole", found))

    def _packed(self, documents: dict[int, Document], draws: Sequence[Draw], phase: PhaseSettings, failures: dict[int, Failure]) -> Decoded:
        """Returns the row of the documents, by place, that are not among the failures."""
        kept = [number for number in documents if number not in failures]
        row = pack([documents[number] for number in kept], [draws[number].source for number in kept], phase, self._image_token)
        return self._arranged(row, draws, failures)

    def _part(
        self,
        opened: Sequence[OpenedDocument],
        phase: PhaseSettings,
        draws: Sequence[Draw],
        failures: dict[int, Failure],
    ) -> Batch:
        """Returns a row with the pixels of the images of which the share holds a part; adds to `failures` the samples whose images fail."""
        assert self._share is not None
        row = pack([each.without_pixels() for each in opened], [draw.source for draw in draws], phase, self._image_token)
        held = held_visual(row, self._shards, self._share.shards)
        start = 0
        for number, document in enumerate(opened):
            end = start + document.visual_tokens
            wanted = _images_of(held[start:end], document.grids)
            if wanted.any():
                try:
                    row.inputs.visual[start:end] = document.decoded(wanted).visual
                except SampleError as error:
                    failures[number] = self._failure(draws[number], error)
            start = end
        return row

    def _agreed(self, row: int, part: str, failures: dict[int, Failure]) -> dict[int, Failure]:
        """Returns the failures of all processes that hold the row, by place in the row."""
        assert self._share is not None
        found: dict[int, Failure] = {}
        for others in self._share.gather(row, part, {str(number): failure for number, failure in failures.items()}):
            found = {int(number): Failure(*failure) for number, failure in others.items()} | found
        return found

    def _arranged(self, packed: Batch, draws: Sequence[Draw], failures: dict[int, Failure]) -> Decoded:
        held = None if self._share is None else self._share.shards
        each = [failures.get(number, self._sources[draw.source].name) for number, draw in enumerate(draws)]
        return Decoded(arrange(packed, self._shards, held), each)

    def _failure(self, draw: Draw, error: SampleError) -> Failure:
        source = self._sources[draw.source]
        return Failure(source.name, source.key(draw.sample), error.reason, str(error))

    def _open(self, draw: Draw, phase: PhaseSettings, planned: list[int]) -> OpenedDocument:
        source = self._sources[draw.source]
        sample = source[draw.sample]
        document = open_document(sample, phase, self._tokenizer, sample_seed(self._seed, source.name, draw.sample), draw.epoch)
        lengths = [len(document.tokens), document.visual_tokens, len(document.grids), 1]
        if lengths != planned:
            given = ", or its row gives another size than its picture has (given_sizes)" if source.settings.given_sizes else ""
            raise SampleError(
                "changed",
                f"{sample.key}: {lengths} tokens, visual tokens, images, segments, but {planned} when the run began: its file has changed{given}; "
                f"the next start measures it again if it is among the files that are looked at; deleting the index "
                f"{self._indexes[draw.source].path} has every sample measured again",
            )
        return document


def _images_of(held: npt.NDArray[np.bool_], grids: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Returns [I] which images have a visual token among those held [V]."""
    ends = grids.prod(axis=1).cumsum()
    counts = np.concatenate([[0], held.cumsum()])
    return counts[ends] > counts[ends - grids.prod(axis=1)]
