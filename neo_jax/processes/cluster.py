"""Where this process stands in its run: from flags, else from what jax knows of the cluster (SLURM, Open MPI, Kubernetes, TPU pods), else alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from jax._src import clusters

from neo_jax.processes.flags import Flags
from neo_jax.processes.rendezvous import GroupError, MissingError


class Place(NamedTuple):
    """A process's place: `process` of `processes`; `coordinator` is process 0's HOST:PORT; `local_devices` as jax.distributed takes them."""

    process: int
    processes: int
    coordinator: str
    local_devices: list[int]


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
