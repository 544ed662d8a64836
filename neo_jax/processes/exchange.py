"""Exchange of JSON values between processes, through jax's coordination service. With one process nothing is sent."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jax
from jax._src import distributed as jax_distributed

FOREVER_MS = 7 * 24 * 3600 * 1000  # others may wait this long while one builds an index; a dead process is detected by its heartbeat


def is_first() -> bool:
    """Returns whether this is process 0, the only one that writes the files of the run directory and shows progress."""
    return jax.process_index() == 0


def client_of_run() -> Any:
    """Returns jax's client of the coordination service: a key-value store of strings, and barriers."""
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
    """Returns the values of all processes, by index. Waits until all processes have called it.

    All processes must make the same calls in the same order. Devices take no part.

    Args:
      value: this process's value, JSON.
    """
    if jax.process_count() == 1:
        return [value]
    client, number = client_of_run(), next(_rounds)
    folder = f"neo_jax/gather/{number}"
    client.key_value_set(f"{folder}/{jax.process_index()}", json.dumps(value))
    client.wait_at_barrier(f"{folder}/all", FOREVER_MS)
    values = {int(key.rsplit("/", 1)[1]): json.loads(text) for key, text in client.key_value_dir_get(folder + "/")}
    if is_first() and number:
        client.key_value_delete(
            f"neo_jax/gather/{number - 1}/"
        )  # all have read the previous round, since they have passed the barrier of this one
    return [values[process] for process in range(jax.process_count())]


def from_first(value: Any) -> Any:
    """Returns process 0's value in every process; the values of the others are ignored. Otherwise like `gather`."""
    return gather(value if is_first() else None)[0]


def barrier() -> None:
    """Waits until every process has called it."""
    gather(None)
