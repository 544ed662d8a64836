"""Finds index and number of processes: from flags, else from the cluster that jax detects (SLURM, Open MPI, Kubernetes, TPU pods), else 0 of 1."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from jax._src import clusters

from neo_jax.processes.flags import Flags
from neo_jax.processes.rendezvous import GroupError, MissingError


class Place(NamedTuple):
    """The place of a process in its run.

    Attributes:
      process, processes: index of this process, and number of processes.
      coordinator: HOST:PORT of process 0; "" for a run of one process.
      local_devices: the argument local_device_ids of jax.distributed.initialize; [] for all devices.
    """

    process: int
    processes: int
    coordinator: str
    local_devices: list[int]


def find_place(flags: Flags) -> Place:
    """Returns the place of this process. Raises GroupError if the cluster is not understood, MissingError if it does not answer."""
    alone = Place(0, 1, "", [])
    if flags.processes == 1:
        return alone
    if flags.processes is not None:
        return Place(flags.process or 0, flags.processes, flags.coordinator or "", [])
    advice = "; set --processes, --process and --coordinator=HOST:PORT to do without the cluster; --processes=1 is a run of one process"
    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, flags.start_seconds)
    except (RuntimeError, OSError) as error:
        raise MissingError(f"the cluster that this process runs in does not say where the other processes are ({error}){advice}") from error
    except Exception as error:  # an unexpected environment variable may raise anything
        raise GroupError(f"the cluster that this process runs in is not understood ({type(error).__name__}: {error}){advice}") from error
    coordinator, processes, process, local_devices = found
    if processes is None and "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ:
        raise GroupError(
            f"this is pod {os.environ['JOB_COMPLETION_INDEX']} of a Kubernetes job, but the package kubernetes, with which jax finds the other pods, "
            f"is not installed{advice}"
        )
    if coordinator is None or processes is None or process is None or processes == 1:
        return alone
    return Place(process, processes, coordinator, _local_devices(local_devices))


def _local_devices(detected: Sequence[int] | None) -> list[int]:
    """Returns the indexes of the GPUs of its host that this process uses; [] for all visible ones.

    With SLURM and Open MPI, jax gives each process the one GPU with its index on the host. This is wrong for one process per host, which would leave
    all but one GPU idle, and if the launcher has hidden all GPUs but one.
    """
    on_host = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or ""  # "8(x2),4" or "8"
    most_processes = max((int(count) for count in re.findall(r"(?:^|,)(\d+)", on_host)), default=0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [] if most_processes == 1 or (visible and "," not in visible) else list(detected or [])
