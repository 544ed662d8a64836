"""TPU VMs: the same command on all hosts of a slice, through gcloud, each supervised by launch/local.py.

A supervisor starts its process again as long as the exit code allows it and checkpoints are written; the processes of all hosts end and meet again
together. The files NAME-HOST.pid and NAME-HOST.log lie in the folder .launch beside the repository's files.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence

from launch.hosts import Hosts
from launch.submit import call
from neo_jax.config import ConfigError
from neo_jax.exit_codes import CONFIGURATION

NAME = re.compile(r"[a-z]([-a-z0-9]{0,60}[a-z0-9])?")
ACTIONS = ("start", "stop", "logs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What the hosts of a slice run, and how.

    Attributes:
      command: program and arguments, run once on each host.
      hosts: of the slice.
      name: of the TPU VM.
      zone: of the TPU VM.
      folder: of the repository on each host.
      grace_seconds: between SIGTERM and the end of what still runs.
      environment: variables of the command.
    """

    command: Sequence[str]
    hosts: Hosts
    zone: str
    name: str = "neo-jax"
    folder: str = "neo_jax"
    grace_seconds: int = 300
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def create_line(job: Job) -> str:
    """Returns the gcloud line that creates the slice. Raises ConfigError as `line` does."""
    _check(job)
    kind = job.hosts.kind
    return shlex.join(
        [
            *("gcloud", "compute", "tpus", "tpu-vm", "create", job.name, f"--zone={job.zone}"),
            f"--accelerator-type={kind.prefix}-{job.hosts.count * job.hosts.chips * kind.cores}",
            f"--version={kind.runtime}",
        ]
    )


def line(job: Job, action: str) -> list[str]:
    """Returns the gcloud command of an action (ACTIONS) as its words.

    Raises:
      ConfigError: several slices, hardware without TPU VMs, or a name or zone that gcloud would refuse.
    """
    _check(job)
    worker = "0" if action == "logs" else "all"  # process 0 is the one that shows progress
    script = {"start": start_script, "stop": stop_script, "logs": logs_script}[action](job)
    return [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", job.name, f"--zone={job.zone}", f"--worker={worker}"),
        f"--command=bash -c {shlex.quote(script)}",
    ]


def shown(job: Job, action: str) -> str:
    """Returns the command of an action as a shell reads it. Raises ConfigError as `line` does."""
    return shlex.join(line(job, action))


def submit(job: Job, action: str) -> int:
    """Calls gcloud; returns its exit code. Raises ConfigError as `line` does, and if there is no gcloud."""
    return call(line(job, action), None, "the command line of Google Cloud: install it and log in")


def start_script(job: Job) -> str:
    """Returns what a host runs to start the command in the background, for bash."""
    python = shlex.quote(job.command[0])
    return _script(
        job,
        f"mkdir -p .launch || exit {CONFIGURATION}",
        'if [ -e "$file.pid" ] && kill -0 "$(cat "$file.pid")" 2>/dev/null; then',
        '    echo "$file.pid: it runs already: stop it first" >&2',
        f"    exit {CONFIGURATION}",
        "fi",
        *(f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()),
        f'nohup {python} launch/local.py --grace-seconds={job.grace_seconds} -- {shlex.join(job.command)} >>"$file.log" 2>&1 </dev/null &',
        'echo $! >"$file.pid"',
    )


def stop_script(job: Job) -> str:
    """Returns what a host runs to stop the command, for bash: SIGTERM, and a wait until it has saved and ended."""
    return _script(
        job,
        'if ! [ -e "$file.pid" ]; then',
        '    echo "$file.pid: nothing was started here" >&2',
        "    exit 0",
        "fi",
        'number=$(cat "$file.pid")',
        'kill -TERM "$number" 2>/dev/null',
        'while kill -0 "$number" 2>/dev/null; do sleep 1; done',
        'rm -f "$file.pid"',
    )


def logs_script(job: Job) -> str:
    """Returns what a host runs to show the end of the log and what is added to it, for bash."""
    return _script(job, 'exec tail -n 100 -F "$file.log"')


def _script(job: Job, *lines: str) -> str:
    # The host in the names: the folder may be one that all hosts share.
    return "\n".join((f"cd {shlex.quote(job.folder)} || exit {CONFIGURATION}", f'file=.launch/{job.name}-"$(hostname)"', *lines)) + "\n"


def _check(job: Job) -> None:
    problems = []
    if not job.hosts.kind.runtime:
        problems.append(f"--hardware: {job.hosts.chip} has no TPU VMs: use --target=jobset")
    if job.hosts.slices > 1:
        problems.append(f"--hardware: {job.hosts.slices} slices: a TPU VM is one slice; for several use --target=jobset")
    if not NAME.fullmatch(job.name):
        problems.append(f"--job-name={job.name}: gcloud wants small letters, digits and -, with a letter in front")
    if not re.fullmatch(r"[a-z]+-[a-z]+[0-9]+-[a-z]", job.zone):
        problems.append(f"--zone={job.zone}: is not a zone, such as us-east5-a")
    if problems:
        raise ConfigError(problems)
