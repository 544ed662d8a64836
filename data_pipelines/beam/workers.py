"""The steps of workers: finding the positions of a piece's records, measuring a chunk, writing a file.

Elements are lines of JSON that begin with a work.Recipe: a piece's settings, the address of its archive of tables, the tokenizer.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apache_beam
from apache_beam.io.filesystems import FileSystems

from data_pipelines.beam import files
from data_pipelines.conversion import Complete, read, write_shards
from data_pipelines.index.shards import shards_of
from data_pipelines.index.work import Chunk, Recipe
from data_pipelines.schema import DataError, NoSamples, SampleError
from data_pipelines.sources import Source, open_source
from data_pipelines.text.tokenizers import Tokenizer, load_tokenizer

_OPEN_PIECES = 32  # maximum number of pieces that a worker keeps open, each with its tables on the worker's disk
_THREADS = 8  # number of threads that read files' headers


class _Opened:
    """An open piece of a source, with its tables in a folder that is deleted with this object."""

    def __init__(self, recipe: Recipe):
        self._folder = tempfile.TemporaryDirectory(prefix="tables-")
        tables = pathlib.Path(self._folder.name)
        _fetch_tables(recipe, tables)
        self.source: Source = open_source(recipe.source, tables)


def _fetch_tables(recipe: Recipe, folder: pathlib.Path) -> None:
    if FileSystems.exists(recipe.tables):
        files.unpack(recipe.tables, folder)


class Scan(apache_beam.DoFn):  # type: ignore[misc]
    """Makes the tables of pieces, and stores those of each piece as an archive.

    An element is a recipe. Raises DataError for a piece that cannot be used.
    """

    def process(self, line: str) -> None:
        recipe = Recipe.from_json(line)
        with tempfile.TemporaryDirectory(prefix="tables-") as name:
            folder = pathlib.Path(name)
            _fetch_tables(recipe, folder)
            before = _state(folder)
            with contextlib.suppress(NoSamples):  # an empty file is allowed: other files may have samples
                open_source(recipe.source, folder)
            if _state(folder) != before or not before:
                files.pack(folder, recipe.tables)


def _state(folder: pathlib.Path) -> set[tuple[str, int]]:
    return {(path.name, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


class Measure(apache_beam.DoFn):  # type: ignore[misc]
    """Measures chunks, and writes the part of each.

    An element is a recipe and a Chunk, whose sample numbers count in the piece and whose part is an address.
    """

    def setup(self) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS)
        self._tokenizer = functools.lru_cache(1)(_load_tokenizer)
        self._open = functools.lru_cache(_OPEN_PIECES)(self._opened)  # keyed by a recipe's text

    def _opened(self, text: str) -> tuple[_Opened, set[tuple[str, int]]]:
        """Returns an open piece, and (identity, first sample) of each of its shards."""
        recipe = Recipe.from_json(text)
        opened = _Opened(recipe)
        shards = shards_of(opened.source, self._tokenizer(recipe.tokenizer, recipe.add_special_tokens))
        return opened, {(shard.identity, shard.first) for shard in shards}

    def process(self, line: str) -> None:
        text, values = json.loads(line)
        recipe, chunk = Recipe.from_json(text), Chunk(*values)
        opened, shards = self._open(text)
        if (chunk.identity, chunk.first) not in shards:
            raise DataError(f"source {recipe.source.name!r}: a file of {recipe.source.path} was written again meanwhile: start again")
        with tempfile.TemporaryDirectory() as folder:
            part = pathlib.Path(folder) / "part"
            tokenizer = self._tokenizer(recipe.tokenizer, recipe.add_special_tokens)
            chunk._replace(part=str(part)).measure(opened.source, tokenizer, self._threads)
            files.put(part, chunk.part)

    def teardown(self) -> None:
        self._threads.shutdown()


def _load_tokenizer(address: str, add_special_tokens: bool) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / pathlib.PurePath(address).name
        files.fetch(address, path)
        return load_tokenizer(path, add_special_tokens)


class FileToWrite(NamedTuple):
    """A file to write, and its samples.

    Attributes:
      number: number of the file.
      start, stop: range [start, stop) of the samples, counted in the piece.
      first: number of the sample at `start` in the source.
      target: output format, one of conversion.TARGETS.
      address: address of the file.
    """

    number: int
    start: int
    stop: int
    first: int
    target: str
    address: str


class FileWritten(NamedTuple):
    """The result of a FileToWrite.

    Attributes:
      number: number of the file.
      seen: number of samples that were read.
      samples: number of samples in the file; 0: no file was written.
      size: size of these samples in bytes.
      failures: (position among the samples that were read, key, reason, message) of each sample that was left out.
    """

    number: int
    seen: int
    samples: int
    size: int
    failures: Sequence[tuple[int, str, str, str]]


class Write(apache_beam.DoFn):  # type: ignore[misc]
    """Writes files. An element is a recipe and a FileToWrite. Yields a FileWritten as JSON."""

    def setup(self) -> None:
        self._open = functools.lru_cache(_OPEN_PIECES)(lambda text: _Opened(Recipe.from_json(text)))

    def process(self, line: str) -> Iterator[str]:
        text, values = json.loads(line)
        file = FileToWrite(*values)
        source = self._open(text).source
        failures: list[tuple[int, str, str, str]] = []
        with tempfile.TemporaryDirectory() as folder:
            local = pathlib.Path(folder)
            counts, size = write_shards(_samples(source, file, failures), local, file.target)
            if counts:
                files.put(local / "0", file.address)
        yield json.dumps(FileWritten(file.number, file.stop - file.start, sum(counts), size, failures))


def _samples(source: Source, file: FileToWrite, failures: list[tuple[int, str, str, str]]) -> Iterator[tuple[int, Complete]]:
    """Yields the usable samples with their numbers in the whole source, and appends the others to `failures`."""
    for place, number in enumerate(range(file.start, file.stop)):
        try:
            found = read(source, number)
        except SampleError as error:
            failures.append((place, source.key(number), error.reason, str(error)))
        else:
            yield file.first + place, found
