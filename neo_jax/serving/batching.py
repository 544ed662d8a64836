"""Answers requests together: what waits when a batch begins is answered side by side; what comes later waits for the next."""

from __future__ import annotations

import asyncio
import collections
import logging
import threading
from collections.abc import Iterator

import jax

from neo_jax.inference.answering import Answerer, Asked, Piece

GATHER_SECONDS = 0.02  # that the first request of a batch waits for others


class Full(Exception):
    """As many requests wait as may wait."""


class Job:
    """A request that waits or is answered.

    Attributes:
      asked: the prompt.
      pieces: of its answer, in order; an exception ends it.
      wanted: False if nobody waits for the answer any more.
    """

    def __init__(self, asked: Asked):
        self.asked = asked
        self.pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self.wanted = True
        self._loop = asyncio.get_running_loop()

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer together."""
        return len(self.asked.document.tokens) + self.asked.max_tokens

    def give(self, piece: Piece | Exception) -> None:
        """Adds a piece, from another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


class Batcher:
    """A thread that answers jobs on a mesh.

    Args:
      tokens: largest number of tokens of a batch: its rows times the longest prompt and answer; one request may be longer alone.
      waiting: largest number of jobs that wait.
    """

    def __init__(self, answerer: Answerer, mesh: jax.sharding.Mesh, tokens: int, waiting: int):
        self._answerer, self._mesh, self._tokens, self._most_waiting = answerer, mesh, tokens, waiting
        self._waiting: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    def add(self, job: Job) -> None:
        """Adds a job. Raises Full."""
        with self._changed:
            if len(self._waiting) >= self._most_waiting:
                raise Full
            self._waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after its batch."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with jax.set_mesh(self._mesh):
            while jobs := self._next():
                self._answer(jobs)

    def _answer(self, jobs: list[Job]) -> None:
        """Answers jobs together; if that fails before any has a piece, each by itself, so that one does not harm the others."""
        given = False
        try:
            for piece in self._wanted(jobs):
                given = True
                jobs[piece.number].give(piece)
        except Exception as error:
            logging.exception("%d requests could not be answered together", len(jobs))
            if len(jobs) == 1 or given:
                for job in jobs:
                    job.give(error)
                return
            for job in jobs:
                self._answer([job])

    def _next(self) -> list[Job]:
        """Waits for jobs; returns those of the next batch, or none when the thread is to end."""
        with self._changed:
            while self._open and not self._waiting:
                self._changed.wait()
            self._changed.wait_for(lambda: not self._open, GATHER_SECONDS)
            if not self._open:
                return []
            jobs: list[Job] = []
            longest = 0
            while self._waiting:
                job = self._waiting[0]
                longest = max(longest, job.tokens)
                if jobs and longest * (len(jobs) + 1) > self._tokens:
                    break
                self._waiting.popleft()
                if job.wanted:
                    jobs.append(job)
            return jobs or self._next()

    def _wanted(self, jobs: list[Job]) -> Iterator[Piece]:
        """Yields the pieces until all answers have ended that somebody waits for."""
        ended: set[int] = set()
        for piece in self._answerer.write([job.asked for job in jobs]):
            yield piece
            if piece.ended:
                ended.add(piece.number)
            if all(number in ended or not job.wanted for number, job in enumerate(jobs)):
                return
