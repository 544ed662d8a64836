"""Which tasks of job arrays SLURM still holds. A task is written as squeue writes it: ARRAY_INDEX, such as "4711_3"."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

# States of squeue in which a task does not run again, and in which it does not run now. PREEMPTED and NODE_FAIL: it may be queued again.
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT")
PENDING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "PREEMPTED", "NODE_FAIL")


class SlurmError(RuntimeError):
    """SLURM does not answer, or refuses; with what it says."""


def job_name(sweep: str) -> str:
    """Returns the name of the job arrays of a sweep."""
    return f"sweep-{sweep}"


def held_tasks(sweep: str) -> dict[str, str]:
    """Returns the tasks of all arrays of a sweep that are queued or running, with squeue's word for it, such as "PENDING".

    Raises:
      SlurmError: squeue is not here or fails.
    """
    # By name: squeue fails for the number of a job that it has forgotten. The controller is asked for all states, since the default leaves out some
    # of which a task comes back.
    lines = ask("squeue", "--noheader", "--array", "--states=all", f"--name={job_name(sweep)}", "--format=%F_%K %T").splitlines()
    found = (line.split() for line in lines)
    return {task: state for task, state in found if state not in OVER}


def ask(*command: str, text: str | None = None) -> str:
    """Runs a command of SLURM and returns what it prints.

    Args:
      command: program and arguments.
      text: its standard input.

    Raises:
      SlurmError: the program is not here or fails.
    """
    try:
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SlurmError(f"there is no {command[0]} here: call this where SLURM's commands are, as on a login node") from None
    if result.returncode:
        raise SlurmError(f"{command[0]} failed with exit code {result.returncode}: {result.stderr.strip() or 'it says nothing'}")
    return result.stdout


def signal_tasks(tasks: Sequence[str], *options: str) -> None:
    """Calls scancel for tasks; those that have ended meanwhile are no error."""
    if tasks:
        ask("scancel", "--quiet", *options, *tasks)
