"""Opens sources together with their length indexes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_pipelines.index.lengths import LengthIndex
from data_pipelines.index.work import Recipe, Stop
from data_pipelines.schema import SourceSettings
from data_pipelines.sources import Source, open_source
from data_pipelines.text.tokenizers import Tokenizer, load_tokenizer


class NamedTokenizer(NamedTuple):
    """A tokenizer, and the arguments with which other processes load it."""

    tokenizer: Tokenizer
    path: str
    add_special_tokens: bool

    @classmethod
    def load(cls, path: str, add_special_tokens: bool) -> NamedTokenizer:
        """Loads a tokenizer. Raises DataError as load_tokenizer."""
        return cls(load_tokenizer(path, add_special_tokens), path, add_special_tokens)


def open_indexed(
    sources: Sequence[SourceSettings],
    named: NamedTokenizer,
    folder: pathlib.Path,
    threads: int = 8,
    stop: Stop | None = None,
    processes: int = 0,
) -> Iterator[tuple[Source, LengthIndex]]:
    """Opens all sources, then yields each source with its index once the index is built.

    Args:
      sources: settings of the sources.
      named: the tokenizer.
      folder: folder of the indexes; its subfolder `tables` has the tables of shards.
      threads, stop: arguments of LengthIndex.open.
      processes: number of processes that measure; 0: one for each core.

    Raises DataError and Interrupted as open_source and LengthIndex.open.
    """
    tables = folder / "tables"
    for source in [open_source(settings, tables) for settings in sources]:
        recipe = Recipe(source.settings, str(tables), named.path, named.add_special_tokens, processes)
        yield source, LengthIndex.open(source, named.tokenizer, folder, threads, stop, recipe)
