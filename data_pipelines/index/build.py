"""Builds the index of a source: measures new shards, checks known shards for changed media files, and joins the columns of all."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.index import arrays, store, work
from data_pipelines.index.columns import COLUMNS, ORDER, Columns, Failure, cut, failures_of, unpack
from data_pipelines.index.locks import FileLock, wait
from data_pipelines.index.measures import file_states, may_change, renew, same_lengths
from data_pipelines.index.shards import (
    DamagedShard,
    Known,
    Shard,
    Unfinished,
    chunks_of,
    identity_of,
    read_part,
    samples_at,
    scratch_folder,
    shard_may_change,
    shards_of,
    verified_columns,
)
from data_pipelines.index.store import Damaged, Description, Facts, describe, load
from data_pipelines.index.work import Chunk, OtherProcesses, OwnProcess, Recipe, Stop, Workers, check_stop
from data_pipelines.progress import progress
from data_pipelines.randomness import permute
from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources import Source
from data_pipelines.text.tokenizers import Tokenizer

# Maximum number of media files, and of unusable samples, that are all checked again when an index is opened. If there are more of either, this
# many random ones of each are checked first, and all only if one of these has changed.
LOOKED_AT = 20_000


class Built(NamedTuple):
    """The index of a source on disk.

    Attributes:
      description: description of the columns of the whole source, at least those in ORDER.
      columns: the memory-mapped columns.
      facts: counts over all samples.
      failures: reasons why samples cannot be used, by sample number: the first ones, up to the number that was requested.
      path: folder of the measured columns.
    """

    description: Description
    columns: Columns
    facts: Facts
    failures: Mapping[int, Failure]
    path: pathlib.Path


class Builder:
    """Builds the index of one source. Processes and hosts that share the folder may do so at once: one of them builds each shard."""

    def __init__(self, source: Source, tokenizer: Tokenizer, folder: pathlib.Path, recipe: Recipe | None, threads: int, stop: Stop):
        self._source, self._tokenizer, self._folder, self._recipe = source, tokenizer, folder, recipe
        self._threads, self._stop = threads, stop
        self._shards = shards_of(source, tokenizer)
        self._different = {shard.identity: shard for shard in reversed(self._shards)}  # equal shards are measured once
        self._whole: set[str] = set()  # shards that this object measured from the first sample to the last

    def build(self, named: int) -> Built:
        """Builds what is missing and returns the index, with the first `named` failures.

        Raises DataError if the index cannot be read or written, Interrupted if the build is stopped.
        """
        is_looked_at = False
        for _ in range(10):  # damage is found when a shard is read; the next attempt builds that shard again
            try:
                self._measure([shard for shard in self._different.values() if self._described(shard) is None])
                if not is_looked_at:
                    self._look_again()
                    is_looked_at = True
                described = {identity: self._described(shard) for identity, shard in self._different.items()}
                each = [description for shard in self._shards if (description := described[shard.identity])]
                if len(each) == len(self._shards):
                    return self._joined(each, named)
            except DamagedShard as error:
                self._discard(error)
        raise DataError(f"the index {self._folder / 'shards'} is damaged again and again: check the disk, or name another index_folder")

    def missing(self) -> list[Chunk]:
        """Returns the chunks that `build` would measure, without those that it only checks again."""
        shards = [shard for shard in self._different.values() if self._described(shard) is None]
        return [chunk for shard in shards for chunk in _unmeasured(chunks_of(shard, self._path(shard) / "parts"))]

    def _discard(self, damaged: DamagedShard) -> None:
        """Deletes the description of a damaged shard, so that it is measured again, unless another process has replaced it meanwhile."""
        shard, description = self._different[damaged.description.folder.name], damaged.description
        with self._locked(shard):
            if self._described(shard) == description:
                print(f"the index {damaged} is damaged: it is built again (deleting it does the same)", flush=True, file=sys.stderr)
                (description.folder / "index.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, shard: Shard) -> Iterator[None]:
        """Waits for the shard's lock and holds it within the context. Raises Interrupted."""
        lock = FileLock(self._lock(shard))
        while not lock.acquire():
            check_stop(self._stop)
            wait()
        try:
            yield
        finally:
            lock.release()

    def _path(self, shard: Shard) -> pathlib.Path:
        return self._folder / "shards" / shard.identity

    def _described(self, shard: Shard) -> Description | None:
        return describe(self._path(shard), shard.identity, COLUMNS)

    def _workers(self, samples: int) -> Workers:
        processes = min(self._recipe.processes or work.cores(), samples // work.CHUNK) if self._recipe else 0
        if self._recipe is None or processes < 2:
            return OwnProcess(self._source, self._tokenizer, self._threads)
        return OtherProcesses(self._recipe, processes, self._threads)

    def _measure(self, shards: Sequence[Shard]) -> None:
        """Measures shards, and waits for those that other processes are measuring."""
        while shards:
            busy: list[Shard] = []
            total = sum(shard.samples for shard in shards)
            for _ in progress(self._measured(shards, busy), total, f"indexing {self._source.name}"):
                pass
            while busy and not any(FileLock(self._lock(shard)).is_free() for shard in busy):
                check_stop(self._stop)
                wait()
            shards = [shard for shard in busy if self._described(shard) is None]

    def _lock(self, shard: Shard) -> pathlib.Path:
        return self._folder / "shards" / f"{shard.identity}.lock"

    def _measured(self, shards: Sequence[Shard], busy: list[Shard]) -> Iterator[None]:
        """Yields once for each sample that is measured. Shards that other processes have locked are appended to `busy`."""
        unfinished: dict[str, Unfinished] = {}
        found = collections.deque[int]()  # numbers of samples that were measured before

        def chunks() -> Iterator[Chunk]:
            for shard in shards:
                lock = FileLock(self._lock(shard))
                if not lock.acquire():
                    busy.append(shard)
                    continue
                unfinished[shard.identity] = piece = Unfinished(shard, self._path(shard), lock)
                if self._described(shard) is not None:
                    found.append(shard.samples)
                    piece.lock.release()
                    continue
                new = _unmeasured(piece.chunks)
                found.append(shard.samples - sum(chunk.stop - chunk.start for chunk in new))
                piece.waiting, piece.is_whole = len(new), len(new) == len(piece.chunks)
                yield from new
                if not new:
                    self._finish(piece)

        try:
            for chunk, _ in self._workers(sum(shard.samples for shard in shards)).run(chunks(), self._stop):
                piece = unfinished[chunk.identity]
                piece.waiting -= 1
                if not piece.waiting:
                    self._finish(piece)
                yield from (None for _ in range(chunk.stop - chunk.start))
                while found:
                    yield from (None for _ in range(found.popleft()))
        finally:
            for piece in unfinished.values():
                piece.lock.release()

    def _finish(self, piece: Unfinished) -> None:
        """Joins the parts of a shard to its columns, and releases its lock."""
        store.write(piece.folder, piece.shard.identity, map(read_part, piece.chunks), COLUMNS)
        shutil.rmtree(piece.folder / "parts", ignore_errors=True)
        if piece.is_whole:
            self._whole.add(piece.shard.identity)
        piece.lock.release()

    def _look_again(self) -> None:
        """Measures again the samples whose media files changed, and unusable samples whose failure may have been repaired."""
        known = [Known(shard, description) for shard in self._different.values() if (description := self._described(shard))]
        known = [each for each in known if shard_may_change(each) and each.shard.identity not in self._whole]
        files = sum(each.description.columns["files"].rows for each in known)
        failures = sum(each.description.columns["failure_sample"].rows for each in known)
        if not known or (max(files, failures) > LOOKED_AT and not self._any_changed(known, files, failures)):
            return
        with scratch_folder(self._folder / "shards") as folder:
            self._look_at_all(known, folder)

    def _look_at_all(self, known: Sequence[Known], folder: pathlib.Path) -> None:
        chunks = [chunk for each in known for chunk in each.chunks(folder)]
        total = sum(chunk.stop - chunk.start for chunk in chunks)
        label = f"looking for changed media of {self._source.name}"
        changed: dict[str, set[int]] = collections.defaultdict(set)
        results = self._workers(total).run(iter(chunks), self._stop)
        for chunk, is_new in progress((result for result in results for _ in range(result[0].stop - result[0].start)), total, label):
            if is_new:
                changed[chunk.identity].add(chunk.start)
        replaced = sum(self._replace(each, changed[each.shard.identity], folder) for each in known if each.shard.identity in changed)
        if replaced:
            print(
                f"{self._source.name}: {replaced:,} samples have media files of another size or time than when they were indexed: they are measured "
                "again, and read as they are now",
                flush=True,
                file=sys.stderr,
            )

    def _any_changed(self, known: Sequence[Known], files: int, failures: int) -> bool:
        """Returns True if a sample's lengths changed, among those of LOOKED_AT random media files and LOOKED_AT random unusable samples."""
        samples: list[tuple[Known, int]] = []
        for name, total in (("file_sample", files), ("failure_sample", failures)):
            chosen = min(LOOKED_AT, total)
            if chosen:
                samples += samples_at(known, name, np.sort(permute(np.arange(chosen), total, np.zeros(chosen, np.uint64))))

        def is_changed(pair: tuple[Known, int]) -> bool:
            check_stop(self._stop)
            known, sample = pair
            number = known.shard.first + sample
            with contextlib.suppress(SampleError):
                if (states := known.file_states(sample)) and file_states(self._source[number]) == states:
                    return False
            entry = unpack(cut(known.columns, sample, sample + 1))[0]
            return may_change(entry) and not same_lengths(renew(self._source, self._tokenizer, number, entry), entry)

        pool = concurrent.futures.ThreadPoolExecutor(self._threads)
        try:
            return any(progress(pool.map(is_changed, samples), len(samples), f"looking for changed media of {self._source.name}"))
        finally:
            pool.shutdown(cancel_futures=True)

    def _replace(self, known: Known, changed: set[int], folder: pathlib.Path) -> int:
        """Writes a shard again, taking the parts in `changed` from `folder` and the others from its old columns.

        Returns the number of samples whose media files were replaced: both times they could be measured.
        """
        replaced = 0
        with self._locked(known.shard):
            chunks = chunks_of(known.shard, folder)
            for chunk in chunks:
                if chunk.start in changed:
                    pairs = zip(unpack(cut(known.columns, chunk.start, chunk.stop)), unpack(read_part(chunk)), strict=True)
                    replaced += sum(bool(a.measured and b.measured and a.measured.files != b.measured.files) for a, b in pairs)
            parts = (read_part(chunk) if chunk.start in changed else cut(known.columns, chunk.start, chunk.stop) for chunk in chunks)
            store.write(self._path(known.shard), known.shard.identity, parts, COLUMNS)
        return replaced

    def _joined(self, each: Sequence[Description], named: int) -> Built:
        """Returns the index of the whole source: the columns of its only shard, or those of all shards joined in one folder."""
        facts = Facts.total(description.facts for description in each)
        if len(each) == 1:
            columns = verified_columns(each[0])
            return Built(each[0], columns, facts, failures_of(columns, named), each[0].folder)
        identity = identity_of(*(description.checksums(ORDER) for description in each))
        folder = self._folder / "joined" / identity
        lock = FileLock(folder.with_suffix(".lock"))
        while True:
            if (description := describe(folder, identity, ORDER)) is not None:
                try:
                    columns = load(description, ORDER)
                except Damaged as error:
                    print(f"the index {folder} is damaged ({error}): it is put together again", flush=True, file=sys.stderr)
                else:
                    return Built(description, columns, facts, self._failures(each, named), self._folder / "shards")
            if not lock.acquire():
                check_stop(self._stop)
                wait()
                continue
            try:
                store.write(folder, identity, map(verified_columns, each), ORDER, facts)
            finally:
                lock.release()

    def _failures(self, each: Sequence[Description], named: int) -> dict[int, Failure]:
        result: dict[int, Failure] = {}
        for shard, description in zip(self._shards, each, strict=True):
            if description.facts.failures and len(result) < named:
                columns = load(description, [name for name in COLUMNS if name.startswith("failure")], verified=False)
                result |= {shard.first + sample: failure for sample, failure in failures_of(columns, named - len(result)).items()}
        return result


def _unmeasured(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Returns the chunks that have no valid part on disk."""
    return [chunk for chunk in chunks if arrays.load(pathlib.Path(chunk.part), chunk.identity) is None]
