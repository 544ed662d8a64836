"""Exchange between processes that hold different context shards of the same rows, while threads decode these.

It goes through jax's coordination service, as `exchange` does, but among the processes of one row alone, from several threads and in any order.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Sequence
from typing import Any

import jax

from neo_jax.processes.exchange import client_of_run

WAIT_MS = 500  # how long a thread waits at a time: then it looks whether it is still needed
_DEADLINE = "DEADLINE_EXCEEDED"

_readings = itertools.count()


def count_reading() -> None:
    """Counts a reading of rows that this process holds whole; others may share theirs, and all must count alike."""
    next(_readings)


class SharedRows:
    """This process's share of its rows for one reading of them (data_pipelines.loading.decoding.Share).

    All processes of a run construct it, or call `count_reading`, at the same points, so that they count readings alike.

    Args:
      shards: context shards that this process holds, ascending.
      processes: indexes of the processes that hold the same rows, this one among them.
      ahead: number of rows that a process decodes before they are asked for.
    """

    def __init__(self, shards: Sequence[int], processes: Sequence[int], ahead: int):
        self.shards = shards
        self._folder = f"neo_jax/rows/{next(_readings)}"
        self._processes, self._kept = processes, 2 * ahead
        self._given: list[tuple[int, str]] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def gather(self, row: int, part: str, value: Any) -> list[Any]:
        """Returns the values of all processes that hold the row, in the order of the processes; see Share."""
        own = self._key(row, part, jax.process_index())
        client_of_run().key_value_set(own, json.dumps(value))
        values = [value if process == jax.process_index() else self._wait_for(self._key(row, part, process)) for process in self._processes]
        self._forget(row, own)
        return values

    def close(self) -> None:
        self._closed.set()

    def _key(self, row: int, part: str, process: int) -> str:
        return f"{self._folder}/{row}/{part}/{process}"

    def _wait_for(self, key: str) -> Any:
        while not self._closed.is_set():
            try:
                return json.loads(client_of_run().blocking_key_value_get(key, WAIT_MS))
            except jax.errors.JaxRuntimeError as error:
                if _DEADLINE not in str(error):
                    raise
        raise RuntimeError(f"the reading ended while a thread waited for {key}")

    def _forget(self, row: int, own: str) -> None:
        """Deletes this process's values of rows so far back that all others have read them.

        Others have given their values for `row`, so they have finished all rows that lie `ahead` rows before it.
        """
        with self._lock:
            self._given.append((row, own))
            old = [key for before, key in self._given if before < row - self._kept]
            self._given = [(before, key) for before, key in self._given if before >= row - self._kept]
        for key in old:
            client_of_run().key_value_delete(key)
