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


_stop_service: Any = None  # jax's preemption service, where it is this run's alone


def keep_stop_service() -> None:
    """Takes jax's preemption service from everyone else in this process; to be called once the processes are connected.

    It answers a SIGTERM at one number, the next above those that all processes asked for last. Orbax asks it at each save for the step, training
    for its count of calls: between two who count apart the answer goes to one of them, and the signal is lost to the other.
    """
    global _stop_service
    _stop_service, jax_distributed.global_state.preemption_sync_manager = jax_distributed.global_state.preemption_sync_manager, None


def return_stop_service() -> None:
    """Gives the service back, so that jax shuts it down before the connection that it uses."""
    jax_distributed.global_state.preemption_sync_manager = _stop_service


def stop_agreed(number: int) -> bool:
    """Whether all processes stop at this number: one of them got a SIGTERM. Every process asks for ascending numbers, the same ones."""
    return bool(_stop_service.reached_sync_point(number))


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
