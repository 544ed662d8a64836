"""Runs Beam pipelines of one step, which workers apply to each element of a file in the work folder."""

from __future__ import annotations

import concurrent.futures
import pathlib
import re
import sys
from collections.abc import Sequence

import apache_beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from data_pipelines.beam import files
from data_pipelines.beam.pieces import Division, tables_name
from data_pipelines.beam.workers import Scan
from data_pipelines.index.work import Recipe
from data_pipelines.schema import DataError, Interrupted, SourceSettings
from data_pipelines.sources.containers.tables import Tables
from data_pipelines.storage.files import open_file
from data_pipelines.storage.interface import StorageError

_PARALLEL_OPENS = 16  # maximum number of files that are opened at once to read their state
_ERROR = re.compile(r"data_pipelines\.schema\.\w+: ([^\n]*)")


def unknown_flags(flags: Sequence[str]) -> list[str]:
    """Returns the flags that Apache Beam does not know. The job server of a cluster may know more flags."""
    options = PipelineOptions(list(flags))
    return sorted(options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys())


class Work:
    """A folder through which this process and the workers exchange the elements and results of pipelines.

    Args:
      folder: address of the folder, on a disk that all workers share or in an object store, for a file system of Apache Beam.
      flags: flags of Apache Beam.

    Raises:
      DataError: Apache Beam has no file system for the address.
    """

    def __init__(self, folder: str, flags: Sequence[str]):
        self.folder = folder
        self._options = PipelineOptions(list(flags))
        FileSystems.set_options(self._options)
        try:
            FileSystems.get_filesystem(folder)
        except ValueError as error:
            raise DataError(f"{folder}: {error}") from error

    def do(self, name: str, elements: Sequence[str], step: apache_beam.PTransform) -> None:
        """Has workers apply `step` to each element, in a pipeline called `name`.

        Raises:
          DataError: the pipeline failed, after any retries of its runner.
        """
        if not elements:
            return
        print(f"{name}: {len(elements):,} elements", file=sys.stderr, flush=True)
        todo = f"{self.folder}/{name}.jsonl"
        files.put_text("".join(f"{element}\n" for element in elements), todo)
        try:
            pipeline = apache_beam.Pipeline(options=self._options)
            _ = pipeline | apache_beam.io.ReadFromText(todo) | apache_beam.Reshuffle() | step
            state = pipeline.run().wait_until_finish()
        except Interrupted as error:
            raise Interrupted(_sentence(str(error))) from error
        except Exception as error:  # runners raise their own exceptions, whose text contains the worker's
            found = _ERROR.search(str(error))
            reason = found[1] if found else [type(error).__name__, *str(error).strip().splitlines()][-1]
            raise DataError(f"the pipeline {name!r} failed: {_sentence(reason)}") from error
        if state != PipelineState.DONE:
            raise DataError(f"the pipeline {name!r} ended as {state}: start again to go on")

    def archive(self, piece: SourceSettings) -> str:
        """Returns the address of the archive of a piece's tables."""
        return f"{self.folder}/tables/{tables_name(piece)}"

    def scan(self, divisions: Sequence[tuple[Division, pathlib.Path]]) -> None:
        """Has workers make the tables of pieces that lack them, and copies these to the folder of tables given with each division."""
        new = [(piece, tables) for division, tables in divisions for piece in _unknown(division, tables)]
        recipes = {self.archive(piece): Recipe(piece, self.archive(piece), "", False) for piece, _ in new}
        self.do("scan", [recipe.to_json() for recipe in recipes.values()], apache_beam.ParDo(Scan()))
        for piece, tables in new:
            files.unpack(self.archive(piece), tables)


def _unknown(division: Division, folder: pathlib.Path) -> list[SourceSettings]:
    """Returns the pieces that have files without tables in `folder`. A piece whose files are not listed counts as such."""
    tables = Tables(folder)

    def is_known(piece: SourceSettings) -> bool:
        try:
            return bool(division.files(piece)) and all(tables.has_seen(open_file(address)) for address in division.files(piece))
        except StorageError as error:
            raise DataError(f"source {piece.name!r}: {error}") from error

    with concurrent.futures.ThreadPoolExecutor(_PARALLEL_OPENS) as pool:
        return [piece for piece, known in zip(division.pieces, pool.map(is_known, division.pieces), strict=True) if not known]


def _sentence(text: str) -> str:
    """Returns a message without the suffix that Apache Beam adds."""
    return text.partition(" [while running")[0]
