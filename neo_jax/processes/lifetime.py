"""Starts and ends the processes of a run together."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import jax

from data_pipelines.printable import printable
from neo_jax.config.fields import ConfigError
from neo_jax.processes.address import own_address, with_port
from neo_jax.processes.cluster import find_place
from neo_jax.processes.exchange import barrier, client_of_run, is_first, keep_stop_service, return_stop_service
from neo_jax.processes.flags import LEAST_SECRET, SECRET, Flags
from neo_jax.processes.identity import compare, identity
from neo_jax.processes.rendezvous import Meeting, MissingError, meet, tell

HEARTBEAT_SECONDS = 30  # a process that is silent for longer counts as dead, and all others end
EXIT_SECONDS = 60  # a finished process waits this long for the others
LEAVE_SECONDS = 5  # a failed process waits this long until the others know of the failure
LAST_SECONDS = 2.0  # process 0 ends this much later than the others: jax aborts processes that lose the connection to it
WATCH_SECONDS = 1.0  # between checks for a failed process
FAILED = "neo_jax/failed"  # key in jax's key-value store


def start(flags: Flags, configuration: Mapping[str, Any]) -> None:
    """Connects this process to the other processes of its run. Must be called before jax uses a device.

    Args:
      flags: the command-line flags on processes.
      configuration: the resolved configuration; it must be equal in every process, as must code and versions.

    Raises:
      ConfigError: virtual devices are requested twice, or the secret is too short.
      GroupError: processes disagree on configuration, code or versions, or the cluster is not understood.
      MissingError: processes were missing at the time limit.
    """
    if flags.cpu_devices is not None:
        if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            raise ConfigError(["--cpu-devices: XLA_FLAGS sets the number of virtual devices too: remove it there"])
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", flags.cpu_devices)
    # Not for the programs that this process starts.
    secret = os.environ.pop(SECRET, "")
    place = find_place(flags)
    if place.processes == 1:
        return
    if secret and len(secret) < LEAST_SECRET:
        raise ConfigError(
            [f"the variable {SECRET} has {len(secret)} characters: give all processes the same {LEAST_SECRET} or more random ones"]
        )
    host, _, port = place.coordinator.rpartition(":")
    host = host.strip("[]")
    bind = _bind(flags, host) if place.process == 0 else ""
    meet(Meeting(place.process, place.processes, host, int(port), flags.start_seconds, bind, secret), identity(configuration), compare)
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process,
        local_device_ids=None if "JAX_LOCAL_DEVICE_IDS" in os.environ else place.local_devices,
        cluster_detection_method="deactivate",  # everything is known by now
        coordinator_bind_address=with_port(bind, int(port)) if bind else None,
        initialization_timeout=flags.start_seconds,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=EXIT_SECONDS,
    )
    keep_stop_service()
    threading.Thread(target=_watch, name="watch", daemon=True).start()


def _bind(flags: Flags, host: str) -> str:
    """Returns the address on which process 0 listens: for the startup check, and for jax's coordination service after it."""
    if flags.bind is not None:
        return flags.bind
    try:
        return own_address(host, flags.start_seconds, tell)
    except OSError as error:
        raise MissingError(
            f"process 0 cannot listen: {error}; name one with --coordinator=HOST:PORT or --bind=ADDRESS; --bind=0.0.0.0 is all interfaces"
        ) from error


def finish() -> None:
    """Waits for all processes at the end of a successful run, and disconnects."""
    if jax.process_count() > 1:
        barrier()
        _finished.set()
        return_stop_service()
        jax.distributed.shutdown()


def leave(code: int, message: str) -> NoReturn:
    """Ends this process with an exit code, and all other processes of its run with the same code and message.

    The others may be blocked in a collective that waits for this process and cannot be interrupted. Therefore a thread in each of them watches for
    the failure and ends the process.
    """
    client = client_of_run()
    if client is not None:
        try:
            client.key_value_set(FAILED, json.dumps({"process": jax.process_index(), "code": code, "message": message}))
        except Exception:  # the key exists: another process failed first, perhaps the cause of this failure
            with contextlib.suppress(Exception):
                code = json.loads(client.key_value_try_get(FAILED))["code"]
    _exit(client, code)


_finished = threading.Event()


def _watch() -> None:
    """Ends this process once another has failed. Runs in a thread."""
    client = client_of_run()
    while not _finished.wait(WATCH_SECONDS):
        try:
            failed = json.loads(client.key_value_try_get(FAILED))
        except Exception:  # none has failed: jax raises no specific error for a missing key
            continue
        if failed["process"] != jax.process_index():
            print(f"\nprocess {failed['process']} ended the run: {printable(str(failed['message']), keep='\n')}", file=sys.stderr)
            _exit(client, failed["code"])


def _exit(client: Any | None, code: int) -> NoReturn:
    if client is not None:
        with contextlib.suppress(Exception):  # another process may be dead
            client.wait_at_barrier("neo_jax/leave", LEAVE_SECONDS * 1000)
            if is_first():
                time.sleep(LAST_SECONDS)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)  # a normal exit would wait for collectives with the other processes
