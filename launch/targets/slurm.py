"""Batch scripts for SLURM: one process a node, with all of its GPUs; or an array of jobs, which differ by their index.

The processes get SIGTERM `signal_seconds` before the time limit and when the job is preempted or cancelled; a training run then saves and ends with
77. A script queues its job again, where it keeps its place in a run directory, for as long as the exit code allows it.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence

from launch.submit import call
from neo_jax.config import ConfigError
from neo_jax.exit_codes import CONFIGURATION, FINAL, PREEMPTED
from neo_jax.processes.flags import SECRET

INDEX = "{index}"  # stands for the index of the job of an array, in any argument of its command
ARRAY = re.compile(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%[1-9]\d*)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a batch script runs, and how.

    Attributes:
      command: program and arguments, run once on each node. In an array, INDEX in an argument stands for the index.
      folder: where the command runs, on a file system that all nodes share; "": the folder that sbatch is called in.
      name: of the job and its log.
      nodes: of the job, or of each job of an array.
      gpus_per_node: 0 for none.
      exclusive: whether the job takes whole nodes.
      time: limit, as sbatch reads it; the job is queued again after it.
      signal_seconds: how long before the limit SIGTERM comes; as long as a step and a checkpoint take.
      retries: restarts after which exit codes other than PREEMPTED are final.
      array: indices as sbatch reads them, such as "0-99%8" (at most eight at once); "": no array.
      log: file, with the patterns of sbatch; "": NAME-JOB.log in the folder.
      options: further options of sbatch without their dashes, such as "partition=gpu".
      environment: variables of the command.
    """

    command: Sequence[str]
    folder: str = ""
    name: str = "neo-jax"
    nodes: int = 1
    gpus_per_node: int = 0
    exclusive: bool = True
    time: str = "24:00:00"
    signal_seconds: int = 300
    retries: int = 10
    array: str = ""
    log: str = ""
    options: Sequence[str] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def script(job: Job) -> str:
    """Returns the text of the batch script of a job.

    Raises:
      ConfigError: no command, indices that are not understood, or an array whose command does not use its index.
    """
    _check(job)
    final = " | ".join(str(code) for code in FINAL)
    identity = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if job.array else "$SLURM_JOB_ID"
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{option}" for option in _options(job)),
        "set -u",
        f"cd {shlex.quote(job.folder) if job.folder else '"${SLURM_SUBMIT_DIR:-.}"'} || exit {CONFIGURATION}",
        *(f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()),
        "",
        "# The processes of this start know each other by it (docs/security.md). srun hands the environment on; all users see a command line.",
        f"export {SECRET}=${{{SECRET}:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')}}",
        "",
        "trap : TERM # one to the whole job must not end this shell before the processes have saved",
        "",
        "# --wait, not --kill-on-bad-exit: the others end by themselves with the same code within seconds, and their code is what counts below.",
        "# --cpu-bind=none: the threads that decode may use every core of the node.",
        f"srun --wait=60 --cpu-bind=none {_command(job)}",
        "code=$?",
        "",
        "case $code in",
        f"    {final}) exit $code ;; # done, or an error that stays",
        f"    {PREEMPTED}) ;; # saved: as often as it takes",
        "    *)",
        f'        if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {job.retries} ]; then',
        '            echo "exit code $code after ${SLURM_RESTART_COUNT:-0} restarts: given up" >&2',
        "            exit $code",
        "        fi",
        "        ;;",
        "esac",
        f'if [ "$(squeue --noheader --job="{identity}" --format=%T 2>/dev/null)" = COMPLETING ]; then',
        '    echo "exit code $code: SLURM ends the job" >&2 # cancelled, or preempted, when SLURM queues it again itself',
        "    exit $code",
        "fi",
        'echo "exit code $code: queued again" >&2',
        f'scontrol requeue "{identity}" || exit $code',
    ]
    return "\n".join(lines) + "\n"


def submit(text: str) -> int:
    """Gives a batch script to sbatch; returns its exit code. Raises ConfigError if there is no sbatch."""
    return call(["sbatch"], text, "SLURM's sbatch: run this on a login node of the cluster")


def _check(job: Job) -> None:
    if not job.command:
        raise ConfigError(["SLURM: there is no command to run: write it after --"])
    if spaced := [option for option in _options(job) if re.search(r"\s", option)]:
        raise ConfigError([f"SLURM: {', '.join(map(repr, spaced))}: options of a batch script hold no white space: leave it out"])
    uses_index = any(INDEX in argument for argument in job.command)
    if job.array and not ARRAY.fullmatch(job.array):
        raise ConfigError([f"SLURM: the indices {job.array!r} are not understood: write for example 0-99, 0-99%8 (eight at once) or 3,5,8"])
    if job.array and not uses_index:
        raise ConfigError(
            [f"SLURM: all jobs of the array {job.array} would do the same: write {INDEX} in the command where the index belongs"]
        )
    if uses_index and not job.array:
        raise ConfigError([f"SLURM: the command has {INDEX}, but the job is no array: give the indices of one, such as 0-99"])


def _options(job: Job) -> list[str]:
    """Returns the options of sbatch; those of `job.options` last, since the last of two counts."""
    return [
        f"job-name={job.name}",
        f"nodes={job.nodes}",
        "ntasks-per-node=1",
        *([f"gpus-per-node={job.gpus_per_node}"] if job.gpus_per_node else []),
        *(["exclusive"] if job.exclusive else []),
        *([f"array={job.array}"] if job.array else []),
        f"time={job.time}",
        f"signal=TERM@{job.signal_seconds}",
        "requeue",
        "open-mode=append",
        f"output={job.log or ('%x-%A_%a.log' if job.array else '%x-%j.log')}",
        *job.options,
    ]


def _command(job: Job) -> str:
    """Returns the command for the shell, with the shell's variable in place of INDEX."""
    if not job.array:
        return shlex.join(job.command)
    parts = ([shlex.quote(part) if part else "" for part in argument.split(INDEX)] for argument in job.command)
    return " ".join('"$SLURM_ARRAY_TASK_ID"'.join(each) or "''" for each in parts)
