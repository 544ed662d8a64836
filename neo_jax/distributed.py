"""A run in several processes: where this one stands among them, what they tell each other beside the arrays, and how they end together.

A process finds its place from flags (--processes, --process, --coordinator, which launch/local.py appends), else from what jax knows of the
cluster it runs in (SLURM, Open MPI, Kubernetes, TPU pods), else it is alone. In a run of one process everything here does nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
from jax._src import clusters
from jax._src import distributed as jax_distributed

from neo_jax import config
from neo_jax.rendezvous import LOOPBACK, GroupError, Meeting, MissingError, meet
from neo_jax.settings import ConfigError, nearest

START_SECONDS = 300  # that processes wait for each other at the start, unless --start-seconds says otherwise
HEARTBEAT_SECONDS = 30  # after which a silent process is taken for dead, and all others end
EXIT_SECONDS = 60  # that a process which is done waits for the others
LEAVE_SECONDS = 5  # that a process which failed waits for the others to hear of it
LAST_SECONDS = 2.0  # that process 0 outlives the others: jax aborts those that lose it
WATCH_SECONDS = 1.0  # between looks for a process that failed
FOREVER_MS = 7 * 24 * 3600 * 1000  # of one process building an index while others wait; the dead are noticed by their heartbeat
NAMED = 10  # differing keys or files that a message names
FAILED = "neo_jax/failed"
# What decides programs, pixels and tokens; those that are not installed have no version.
PACKAGES = (
    *("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "array-record"),
    *("tensorflow-datasets", "sentencepiece", "tokenizers", "pillow", "opencv-python-headless", "simplejpeg", "av"),
)
COMPILER_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
FLAGS = ("processes", "process", "coordinator", "cpu-devices", "start-seconds")


class Flags(NamedTuple):
    """What the command line says of processes.

    Attributes:
      processes, process, coordinator: how many, which one this is, and HOST:PORT where process 0 listens; None: find out.
      cpu_devices: virtual CPU devices of this process; None: the devices that there are.
      start_seconds: how long processes wait for each other at the start.
    """

    processes: int | None = None
    process: int | None = None
    coordinator: str | None = None
    cpu_devices: int | None = None
    start_seconds: int = START_SECONDS


class Place(NamedTuple):
    """A process's place: `process` of `processes`; `coordinator` is process 0's HOST:PORT; `local_devices` as jax.distributed takes them."""

    process: int
    processes: int
    coordinator: str
    local_devices: list[int]


def read_flags(arguments: Sequence[str]) -> tuple[Flags, list[str]]:
    """Takes the flags of processes from a command line; returns the rest too. Raises ConfigError with everything that is wrong with them."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    rest = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
        if not argument.startswith("-") or name == "config" or name.startswith("config.") or not (name in FLAGS or nearest(name, FLAGS)):
            rest.append(argument)
        elif name not in FLAGS:
            problems.append(f"{argument}: unknown flag{nearest(name, FLAGS)}")
        elif name == "coordinator":
            values[name] = text
            if not re.fullmatch(r"\S+:\d+", text):
                problems.append(f"{argument}: must be HOST:PORT")
        elif not (equals and text.isascii() and text.isdecimal()) or (int(text) < 1 and name != "process"):
            problems.append(f"{argument}: must be a whole number{'' if name == 'process' else ' of at least 1'}: --{name}=4")
        else:
            values[name.replace("-", "_")] = int(text)
    flags = Flags(**values) if not problems else Flags()
    if (flags.processes or 1) > 1 and (flags.process is None or flags.coordinator is None):
        problems.append(f"--processes={flags.processes} needs --process=INDEX and --coordinator=HOST:PORT (launch/local.py gives both)")
    if flags.processes is None and (flags.process is not None or flags.coordinator is not None):
        problems.append("--process and --coordinator need --processes=COUNT")
    if flags.processes and flags.process is not None and flags.process >= flags.processes:
        problems.append(f"--process={flags.process}: {flags.processes} processes are numbered 0 to {flags.processes - 1}")
    if problems:
        raise ConfigError(problems)
    return flags, rest


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
    threading.Thread(target=_watch, name="watch", daemon=True).start()


def find_place(flags: Flags) -> Place:
    """This process's place. Raises GroupError where the cluster is not understood, MissingError where it does not answer."""
    alone = Place(0, 1, "", [])
    if flags.processes == 1:
        return alone
    if flags.processes is not None:
        return Place(flags.process or 0, flags.processes, flags.coordinator or "", [])
    advice = "; --processes, --process and --coordinator=HOST:PORT say it without the cluster, --processes=1 is a run of one process"
    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, flags.start_seconds)
    except (RuntimeError, OSError) as error:
        raise MissingError(f"the cluster that this process runs in does not say where the others are ({error}){advice}") from error
    except Exception as error:  # whatever a variable of another form leads to
        raise GroupError(f"the cluster that this process runs in is not understood ({type(error).__name__}: {error}){advice}") from error
    coordinator, processes, process, local_devices = found
    if processes is None and "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ:
        raise GroupError(
            f"this is pod {os.environ['JOB_COMPLETION_INDEX']} of a Kubernetes job, and the package kubernetes, by which jax finds the others, is "
            f"not installed{advice}"
        )
    if coordinator is None or processes is None or process is None or processes == 1:
        return alone
    return Place(process, processes, coordinator, _local_devices(local_devices))


def _local_devices(detected: Sequence[int] | None) -> list[int]:
    """Which GPUs of its host this process uses; [] all that it sees.

    jax gives a process of SLURM or Open MPI the GPU of its number on the host. That is wrong for one process a host, which would leave all
    but one GPU idle, and where the launcher has hidden all GPUs but one.
    """
    on_host = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or ""  # "8(x2),4" or "8"
    most = max((int(count) for count in re.findall(r"(?:^|,)(\d+)", on_host)), default=0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [] if most == 1 or (visible and "," not in visible) else list(detected or [])


def identity(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What all processes of a run must have in common: configuration, digests of the source files, versions."""
    versions = {"python": platform.python_version()} | {name: os.environ.get(name, "") for name in COMPILER_FLAGS}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"configuration": json.loads(json.dumps(configuration)), "files": source_digests(), "versions": versions}


def source_digests() -> dict[str, str]:
    """A digest of each source file of neo_jax and data_pipelines, by its path from the folder that holds them."""
    root = pathlib.Path(__file__).parents[1]
    files = sorted(path for package in ("neo_jax", "data_pipelines") for path in (root / package).rglob("*.py"))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def compare(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What of another process's identity differs from `mine`, a few words each."""
    ours, theirs = ({key: _section(each, key) for key in ("configuration", "files", "versions")} for each in (mine, other))
    forbidden, allowed = config.differences(ours["configuration"], theirs["configuration"])
    files = [name for name in sorted(ours["files"].keys() | theirs["files"].keys()) if ours["files"].get(name) != theirs["files"].get(name)]
    versions, _ = config.differences(ours["versions"], theirs["versions"])
    kinds = {"configuration": forbidden + allowed, "source files": files, "versions": versions}
    return [f"{kind} ({_some(names)})" for kind, names in kinds.items() if names]


def _section(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = values.get(key)
    return section if isinstance(section, Mapping) else {}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(name[:200] for name in names[:NAMED]) + more


def is_first() -> bool:
    """Whether this is process 0, which alone writes the run directory's files and shows progress."""
    return jax.process_index() == 0


def _client() -> Any:
    """jax's connection between the processes: a small store of strings, and barriers."""
    return jax_distributed.global_state.client


_rounds = itertools.count()


def gather(value: Any) -> list[Any]:
    """Every process's value, in the order of processes; no process returns before all have called. Values are JSON.

    Every process must make the same calls in the same order. Devices are not involved.
    """
    if jax.process_count() == 1:
        return [value]
    client, number = _client(), next(_rounds)
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


def finish() -> None:
    """Waits for all processes at the end of a run that went well."""
    if jax.process_count() > 1:
        barrier()
        _finished.set()
        jax.distributed.shutdown()


def leave(code: int, message: str) -> NoReturn:
    """Ends this process of several with an exit code, and all others with the same code and message, wherever they are.

    The others may wait for this process in a collective, from which no exception leads out: their watching threads end them.
    """
    client = _client()
    try:
        client.key_value_set(FAILED, json.dumps({"process": jax.process_index(), "code": code, "message": message}))
    except Exception:  # another failed first, and this one perhaps by it
        with contextlib.suppress(Exception):
            code = json.loads(client.key_value_try_get(FAILED))["code"]
    _exit(client, code)


_finished = threading.Event()


def _watch() -> None:
    """Ends this process when another has failed."""
    client = _client()
    while not _finished.wait(WATCH_SECONDS):
        try:
            failed = json.loads(client.key_value_try_get(FAILED))
        except Exception:  # none has: jax has no error of its own for it
            continue
        if failed["process"] != jax.process_index():
            print(f"\nprocess {failed['process']} ended the run: {failed['message']}", file=sys.stderr)
            _exit(client, failed["code"])


def _exit(client: Any, code: int) -> NoReturn:
    with contextlib.suppress(Exception):  # a process may be dead
        client.wait_at_barrier("neo_jax/leave", LEAVE_SECONDS * 1000)
        if is_first():
            time.sleep(LAST_SECONDS)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)  # an orderly exit would wait for the others' devices
