"""How the processes of a run start and end together."""

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

from neo_jax.config.fields import ConfigError
from neo_jax.processes.cluster import find_place
from neo_jax.processes.exchange import barrier, client_of_run, is_first, keep_stop_service, return_stop_service
from neo_jax.processes.flags import Flags
from neo_jax.processes.identity import compare, identity
from neo_jax.processes.rendezvous import LOOPBACK, Meeting, meet

HEARTBEAT_SECONDS = 30  # after which a silent process is taken for dead, and all others end
EXIT_SECONDS = 60  # that a process which is done waits for the others
LEAVE_SECONDS = 5  # that a process which failed waits for the others to hear of it
LAST_SECONDS = 2.0  # that process 0 outlives the others: jax aborts those that lose it
WATCH_SECONDS = 1.0  # between looks for a process that failed
FAILED = "neo_jax/failed"


def start(flags: Flags, configuration: Mapping[str, Any]) -> None:
    """Joins this process to its run. To be called before jax touches a device.

    Args:
      flags: of the command line.
      configuration: resolved; it must be the same in every process, as must code and versions.

    Raises:
      ConfigError: virtual devices are asked for twice.
      GroupError: the processes do not run the same, or the cluster is not understood.
      MissingError: some did not come within the time limit.
    """
    if flags.cpu_devices is not None:
        if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            raise ConfigError(["--cpu-devices: XLA_FLAGS names a number of virtual devices too: take that out of it"])
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", flags.cpu_devices)
    place = find_place(flags)
    if place.processes == 1:
        return
    host, _, port = place.coordinator.rpartition(":")
    host = host.strip("[]")
    meet(Meeting(place.process, place.processes, host, int(port), flags.start_seconds), identity(configuration), compare)
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process,
        local_device_ids=None if "JAX_LOCAL_DEVICE_IDS" in os.environ else place.local_devices,
        cluster_detection_method="deactivate",  # all is known by now
        coordinator_bind_address=place.coordinator if host in LOOPBACK else None,
        initialization_timeout=flags.start_seconds,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=EXIT_SECONDS,
    )
    keep_stop_service()
    threading.Thread(target=_watch, name="watch", daemon=True).start()


def finish() -> None:
    """Waits for all processes at the end of a run that went well."""
    if jax.process_count() > 1:
        barrier()
        _finished.set()
        return_stop_service()
        jax.distributed.shutdown()


def leave(code: int, message: str) -> NoReturn:
    """Ends this process with an exit code, and all others of its run with the same code and message, wherever they are.

    The others may wait for this process in a collective, from which no exception leads out: their watching threads end them.
    """
    client = client_of_run()
    if client is not None:
        try:
            client.key_value_set(FAILED, json.dumps({"process": jax.process_index(), "code": code, "message": message}))
        except Exception:  # another failed first, and this one perhaps by it
            with contextlib.suppress(Exception):
                code = json.loads(client.key_value_try_get(FAILED))["code"]
    _exit(client, code)


_finished = threading.Event()


def _watch() -> None:
    """Ends this process when another has failed."""
    client = client_of_run()
    while not _finished.wait(WATCH_SECONDS):
        try:
            failed = json.loads(client.key_value_try_get(FAILED))
        except Exception:  # none has: jax has no error of its own for it
            continue
        if failed["process"] != jax.process_index():
            print(f"\nprocess {failed['process']} ended the run: {failed['message']}", file=sys.stderr)
            _exit(client, failed["code"])


def _exit(client: Any | None, code: int) -> NoReturn:
    if client is not None:
        with contextlib.suppress(Exception):  # a process may be dead
            client.wait_at_barrier("neo_jax/leave", LEAVE_SECONDS * 1000)
            if is_first():
                time.sleep(LAST_SECONDS)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)  # an orderly exit would wait for the others' devices
