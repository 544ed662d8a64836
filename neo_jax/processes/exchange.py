"""What processes tell each other beside arrays: JSON through jax's coordination service. In a run of one process everything here does nothing."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jax
from jax._src import distributed as jax_distributed

FOREVER_MS = 7 * 24 * 3600 * 1000  # of one process building an index while others wait; the dead are noticed by their heartbeat


def is_first() -> bool:
    """Whether this is process 0, which alone writes the run directory's files and shows progress."""
    return jax.process_index() == 0


def client_of_run() -> Any:
    """jax's connection between the processes: a small store of strings, and barriers."""
    return jax_distributed.global_state.client


_rounds = itertools.count()


def gather(value: Any) -> list[Any]:
    """Every process's value, in the order of processes; no process returns before all have called. Values are JSON.

    Every process must make the same calls in the same order. Devices are not involved.
    """
    if jax.process_count() == 1:
        return [value]
    client, number = client_of_run(), next(_rounds)
    folder = f"neo_jax/gather/{number}"
    client.key_value_set(f"{folder}/{jax.process_index()}", json.dumps(value))
    client.wait_at_barrier(f"{folder}/all", FOREVER_MS)
    values = {int(key.rsplit("/", 1)[1]): json.loads(text) for key, text in client.key_value_dir_get(folder + "/")}
    if is_first() and number:
        client.key_value_delete(f"neo_jax/gather/{number - 1}/")  # all have read it: they are past this round's barrier
    return [values[process] for process in range(jax.process_count())]


def from_first(value: Any) -> Any:
    """Process 0's value in every process; what the others give is not looked at. As `gather` otherwise."""
    return gather(value if is_first() else None)[0]


def barrier() -> None:
    """Returns when every process has called it."""
    gather(None)
