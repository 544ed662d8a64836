"""Measures chunks of samples for an index, in this process or in other processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import data_pipelines
from data_pipelines.index import arrays
from data_pipelines.index.columns import COLUMNS, Entry, cut, pack, unpack
from data_pipelines.index.measures import NEW, renew
from data_pipelines.index.store import Damaged, describe, load
from data_pipelines.schema import DataError, Interrupted, SourceSettings
from data_pipelines.sources import Source
from data_pipelines.text.tokenizers import Tokenizer

CHUNK = 4096  # samples of a chunk, and thus the most that a kill costs each process
Stop = Callable[[], bool]
_TASK = 64  # samples of one task of a thread: submitting a task costs as much as measuring half a text row


class Recipe(NamedTuple):
    """Settings with which other processes open the same source and tokenizer, and the number of processes; 0: one for each core."""

    source: SourceSettings
    tables: str
    tokenizer: str
    add_special_tokens: bool
    processes: int = 0

    def to_json(self) -> str:
        return json.dumps([dataclasses.asdict(self.source), *self[1:]])

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        source, *rest = json.loads(text)
        lists = {name: tuple(value) for name, value in source.items() if isinstance(value, list)}
        return cls(SourceSettings(**(source | lists)), *rest)


class Chunk(NamedTuple):
    """Samples of a shard that are measured together.

    Attributes:
      identity: identity of the shard.
      first: number of the shard's first sample in the source.
      start, stop: range [start, stop) of the samples, counted in the shard.
      part: path of the file that the samples' columns are written to, unless they are unchanged.
      folder: folder of the shard's columns, if known samples are checked again; "" for new samples.
    """

    identity: str
    first: int
    start: int
    stop: int
    part: str
    folder: str = ""

    def measure(self, source: Source, tokenizer: Tokenizer, threads: concurrent.futures.Executor | None) -> bool:
        """Measures the samples, in `threads` or else in this one, and returns whether a part was written.

        Raises DataError if the part cannot be written.
        """
        known = self._known()
        samples = enumerate(known, self.first + self.start)
        measured = functools.partial(_renewed, source, tokenizer)
        # One thread measures by itself: handing tasks to another costs half as much again as measuring rows whose files are not opened.
        tasks = threads.map(measured, itertools.batched(samples, _TASK)) if threads else [measured(samples)]
        entries = list(itertools.chain.from_iterable(tasks))
        if self.folder and entries == known:
            return False
        arrays.save(pathlib.Path(self.part), pack(entries), self.identity)
        return True

    def _known(self) -> list[Entry]:
        if self.folder and (description := describe(pathlib.Path(self.folder), self.identity, COLUMNS)):
            with contextlib.suppress(Damaged):  # if another process has replaced the columns meanwhile, the samples are measured again
                return unpack(cut(load(description, COLUMNS, verified=False), self.start, self.stop))
        return [NEW] * (self.stop - self.start)


def _renewed(source: Source, tokenizer: Tokenizer, samples: Iterable[tuple[int, Entry]]) -> list[Entry]:
    return [renew(source, tokenizer, number, entry) for number, entry in samples]


class Workers(Protocol):
    """Measures chunks of one source."""

    def run(self, chunks: Iterable[Chunk], stop: Stop) -> Iterator[tuple[Chunk, bool]]:
        """Yields each chunk when it is done, in any order, with True if it has a new part.

        Raises Interrupted if `stop` returns True; the chunks that were yielded are on disk. Raises DataError if a part cannot be written.
        """
        ...


class OwnProcess:
    """Measures in threads of this process."""

    def __init__(self, source: Source, tokenizer: Tokenizer, threads: int):
        self._source, self._tokenizer, self._threads = source, tokenizer, threads

    def run(self, chunks: Iterable[Chunk], stop: Stop) -> Iterator[tuple[Chunk, bool]]:
        pool = concurrent.futures.ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        try:
            for chunk in chunks:
                check_stop(stop)
                yield chunk, chunk.measure(self._source, self._tokenizer, pool)
        finally:
            if pool:
                pool.shutdown(cancel_futures=True)  # drops the waiting tasks of an interrupted chunk


class OtherProcesses:
    """Measures in separate processes, `python -m data_pipelines.index.worker`, which import only what a source needs.

    If this process ends for any reason, they end after their current chunk.
    """

    def __init__(self, recipe: Recipe, processes: int, threads: int):
        self._recipe, self._processes, self._threads = recipe, processes, threads

    def run(self, chunks: Iterable[Chunk], stop: Stop) -> Iterator[tuple[Chunk, bool]]:
        free: list[_Process] = []
        started: list[_Process] = []
        running: dict[concurrent.futures.Future[tuple[bool, str]], tuple[Chunk, _Process]] = {}
        waiting = iter(chunks)
        pool = concurrent.futures.ThreadPoolExecutor(self._processes)  # each waits for one process
        try:
            while True:
                while len(running) < self._processes and (chunk := next(waiting, None)) is not None:
                    if not free:
                        started.append(process := _Process(self._recipe, max(1, self._threads // self._processes)))
                        free.append(process)
                    process = free.pop()
                    running[pool.submit(process.measure, chunk)] = chunk, process
                if not running:
                    return
                done, _ = concurrent.futures.wait(running, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED)
                check_stop(stop)
                for future in done:
                    chunk, process = running.pop(future)
                    free.append(process)
                    yield chunk, self._result(future, chunk, stop)
        finally:
            for process in started:
                process.kill()
            pool.shutdown()

    def _result(self, future: concurrent.futures.Future[tuple[bool, str]], chunk: Chunk, stop: Stop) -> bool:
        is_new, problem = future.result()
        if problem:
            check_stop(stop)  # a signal to the whole process group may end the other processes first
            raise DataError(
                f"indexing {self._recipe.source.name!r}, samples {chunk.first + chunk.start:,} to {chunk.first + chunk.stop:,}: {problem}"
            )
        return is_new


class _Process:
    def __init__(self, recipe: Recipe, threads: int):
        command = [sys.executable, "-m", "data_pipelines.index.worker", str(threads)]
        paths = [str(pathlib.Path(data_pipelines.__path__[0]).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self._greeting = recipe.to_json()

    def measure(self, chunk: Chunk) -> tuple[bool, str]:
        """Returns whether there is a new part, and an error message or "". Called by one thread at a time."""
        assert self._process.stdin and self._process.stdout
        try:
            for line in (self._greeting, json.dumps(chunk)):
                if line:
                    self._process.stdin.write(line + "\n")
            self._greeting = ""
            self._process.stdin.flush()
            reply: Any = json.loads(self._process.stdout.readline() or "null")
        except (OSError, ValueError):
            reply = None
        if reply is None:
            code = self._process.wait()
            return False, f"a process that measures them ended with exit code {code} (-9: killed, mostly for memory); start again to go on"
        return bool(reply["new"]), str(reply["problem"])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin and self._process.stdout
        self._process.stdout.close()
        with contextlib.suppress(OSError):  # closing flushes what is left, to a process that has ended
            self._process.stdin.close()


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_stop(stop: Stop) -> None:
    if stop():
        raise Interrupted("indexing was stopped; what was measured is kept, and the next start continues from there")
