"""The shards of a source: their identities, and their division into chunks."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.conditions import of_columns
from data_pipelines.index import arrays, work
from data_pipelines.index.columns import COLUMNS, Columns
from data_pipelines.index.locks import FileLock
from data_pipelines.index.measures import LASTING
from data_pipelines.index.store import Damaged, Description, load
from data_pipelines.index.work import Chunk
from data_pipelines.schema import DataError
from data_pipelines.sources import Source
from data_pipelines.sources.dialects.row import VERSION as ROW_VERSION
from data_pipelines.text.tokenizers import Tokenizer

VERSION = 7  # version of the measuring method: raise it when a length may change


class Shard(NamedTuple):
    """Samples of a source that are measured and stored together.

    Attributes:
      identity: digest of the content, the settings it is read with, the tokenizer and the method's version; independent of the path.
      first: number of its first sample in the source.
      samples: number of samples.
    """

    identity: str
    first: int
    samples: int


def shards_of(source: Source, tokenizer: Tokenizer) -> list[Shard]:
    """Returns the shards of a source in order."""
    columns = tuple(map(str, of_columns(source.settings.keep)))  # conditions on measures do not affect what is measured
    media_root = "given" if source.settings.media_root else ""
    settings = dataclasses.replace(source.settings, name="", path="", media_root=media_root, keep=columns, max_epochs=0.0)
    result, first = [], 0
    for shard in source.shards():
        name = shard.name if settings.prompts else ""  # a row's key contains the name and selects the prompt
        result.append(Shard(identity_of(shard.fingerprint, name, ROW_VERSION, settings, tokenizer.fingerprint), first, shard.samples))
        first += shard.samples
    return result


def identity_of(*parts: object) -> str:
    return hashlib.sha256(repr((VERSION, *parts)).encode()).hexdigest()[:32]


class DamagedShard(Exception):
    """Raised if the files of a shard do not match their description."""

    def __init__(self, description: Description, problem: object):
        super().__init__(f"{description.folder} ({problem})")
        self.description = description


def verified_columns(description: Description) -> Columns:
    try:
        return load(description, COLUMNS)
    except Damaged as error:
        raise DamagedShard(description, error) from error


@contextlib.contextmanager
def scratch_folder(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path of a temporary folder, which is deleted at the end. Deletes folders that killed processes left."""
    for path in parent.glob(".again.*.lock"):
        if FileLock(path).is_free():
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)
    folder = parent / f".again.{secrets.token_hex(8)}"
    path = folder.with_name(f"{folder.name}.lock")
    lock = FileLock(path)
    lock.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        path.unlink(missing_ok=True)
        lock.release()


class Unfinished:
    """A shard that this process is measuring."""

    def __init__(self, shard: Shard, folder: pathlib.Path, lock: FileLock):
        self.shard, self.folder, self.lock = shard, folder, lock
        self.chunks = chunks_of(shard, folder / "parts")
        self.waiting = len(self.chunks)
        self.is_whole = True


class Known:
    """A shard that was measured before."""

    def __init__(self, shard: Shard, description: Description):
        self.shard, self.description = shard, description
        self._columns: dict[str, npt.NDArray[Any]] = {}

    @property
    def columns(self) -> Columns:
        if not self._columns:
            try:
                self._columns |= load(self.description, COLUMNS, verified=False)
            except Damaged as error:
                raise DamagedShard(self.description, error) from error
        return self._columns

    def file_states(self, sample: int) -> list[tuple[int, int]]:
        """Returns the states of a sample's media files when it was measured; empty if it could not be used when it was last checked."""
        if self._has(self.columns["failure_sample"], sample):
            return []
        owners = self.columns["file_sample"]
        low, high = np.searchsorted(owners, [sample, sample + 1]).tolist()
        return [(size, time) for size, time in self.columns["files"][low:high].tolist()]

    @staticmethod
    def _has(numbers: npt.NDArray[np.int64], sample: int) -> bool:
        place = int(np.searchsorted(numbers, sample))
        return place < len(numbers) and int(numbers[place]) == sample

    def chunks(self, folder: pathlib.Path) -> list[Chunk]:
        """Returns the chunks with samples that may have changed; their new parts will be written to `folder`."""
        chunks = chunks_of(self.shard, folder)
        edges = [0, *(chunk.stop for chunk in chunks)]
        rows = [np.diff(np.searchsorted(self.columns[name], edges)) for name in ("file_sample", "failure_sample")]
        wanted = (rows[0] + rows[1] > 0).tolist()
        return [chunk._replace(folder=str(self.description.folder)) for chunk, is_wanted in zip(chunks, wanted, strict=True) if is_wanted]


def shard_may_change(known: Known) -> bool:
    lasting = sum(count for reason, count in known.description.facts.failures.items() if reason in LASTING)
    return known.description.columns["files"].rows > 0 or known.description.facts.failures.total() > lasting


def samples_at(known: Sequence[Known], name: str, rows: npt.NDArray[np.int64]) -> list[tuple[Known, int]]:
    """Returns the samples whose numbers are at `rows` of the column `name`, with rows counted over all shards."""
    found, start = [], 0
    for each in known:
        stop = start + each.description.columns[name].rows
        low, high = np.searchsorted(rows, [start, stop]).tolist()
        if low < high:
            found += [(each, sample) for sample in np.unique(each.columns[name][rows[low:high] - start]).tolist()]
        start = stop
    return found


def chunks_of(shard: Shard, folder: pathlib.Path) -> list[Chunk]:
    starts = range(0, shard.samples, work.CHUNK)
    ranges = [(start, min(start + work.CHUNK, shard.samples)) for start in starts]
    return [Chunk(shard.identity, shard.first, start, stop, str(folder / f"{shard.identity}-{start}-{stop}.npz")) for start, stop in ranges]


def read_part(chunk: Chunk) -> Columns:
    columns = arrays.load(pathlib.Path(chunk.part), chunk.identity)
    if columns is None:
        raise DataError(f"the part {chunk.part} of the index was lost while it was read: start again to measure its samples again")
    return columns
