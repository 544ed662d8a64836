"""The action `stop` of launch.sweep: ends the launcher of a sweep and its runs, or what SLURM and Kubernetes hold of it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from launch import job_array
from launch.driver import POLL_SECONDS
from launch.jobset_run import TARGET as JOBSET
from launch.jobset_run import stop_left
from launch.kubernetes import check_kubectl
from launch.sweep_flags import Flags
from launch.sweep_run import refuse_if_left
from neo_jax.config import ConfigError
from neo_jax.exit_codes import DONE, FAILED
from neo_jax.sweeps.file import Sweep
from neo_jax.sweeps.folder import SweepFolder

END_SECONDS = 60  # that a launcher has to end after the grace of its runs


def stop_runs(sweep: Sweep, folder: SweepFolder, flags: Flags) -> int:
    """Ends what runs a sweep, and its runs, which save; returns the exit code of the command."""
    try:
        stopped = job_array.stop(folder, flags.grace_seconds) or stop_driver(folder, flags.grace_seconds + END_SECONDS)
        stopped = stopped or _stop_left(folder, flags)
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return FAILED
    print("stopped; its runs have saved" if stopped else f"nothing runs the sweep in {folder.path}")
    return DONE


def _stop_left(folder: SweepFolder, flags: Flags) -> bool:
    """Ends what a launcher that was killed has left on Kubernetes; returns whether there was anything."""
    if flags.target != JOBSET:
        refuse_if_left(folder)
        return False
    if not (left := folder.left()):
        return False
    check_kubectl()
    with folder.lock():
        stop_left(folder, left)
    return True


def stop_driver(folder: SweepFolder, wait_seconds: float) -> bool:
    """Sends SIGTERM to the process that runs a sweep and waits for its end; returns False if there is none.

    Raises:
      ConfigError: it runs on another host.
      TimeoutError: it does not end.
    """
    running = folder.driver()
    if not running:
        return False
    number, _, host = running.partition(" ")
    if host != socket.gethostname():
        raise ConfigError([f"{folder.path} is being run on {host}: stop it there"])
    os.kill(int(number), signal.SIGTERM)
    deadline = time.monotonic() + wait_seconds
    while folder.driver() == running:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {number} still runs the sweep in {folder.path} {wait_seconds:.0f} s after SIGTERM")
        time.sleep(POLL_SECONDS)
    return True
