"""Starts a command on this machine, on SLURM, on Kubernetes or on TPU VMs: python -m launch.run --target=TARGET [flags] -- python -m MODULE ...

`--help` lists flags and exit codes. docs/scale.md has an example for each target.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

from launch.hardware import environment
from launch.hosts import Hosts, find_hosts
from launch.targets import jobset, local, slurm, tpu_vm
from neo_jax.config import ConfigError, parse_command_line
from neo_jax.config.fields import NotEmpty, OneOf, Positive, Text, Whole
from neo_jax.config.flags import Command, config_arguments, read_flags
from neo_jax.exit_codes import CONFIGURATION, DONE, FAILED

FORM = "python -m neo_jax.train --config=FILE"
EXAMPLE = f"--target=slurm --hardware=h200:4x8 --dry-run -- .venv/bin/{FORM}"
TRAINS = ("neo_jax.train", "neo_jax.demo")  # modules that meet over processes, and take the flags of neo_jax/processes/flags.py
COMMAND = Command(
    "launch.run",
    "Starts a command that trains: on this machine, supervised; as a job of SLURM; as a JobSet of Kubernetes; on all hosts of a TPU VM. The command "
    f"stands after --, as it is called there: {FORM}.",
    EXAMPLE,
    {
        DONE: "submitted; on this machine: done",
        FAILED: "sbatch, kubectl, gcloud or the command itself failed; every other code of theirs is passed on too",
        CONFIGURATION: "a command line that cannot be used, or a program that is missing",
    },
    None,
)
OF_TARGET = {
    "local": ("processes", "devices"),
    "slurm": ("nodes", "time", "array", "sbatch", "folder", "restarts", "start_seconds"),
    "jobset": ("image", "volume", "folder", "restarts", "start_seconds", "cluster"),
    "tpu_vm": ("zone", "action", "folder", "start_seconds"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of the command.

    Attributes:
      target: local, slurm, jobset or tpu_vm.
      hardware: CHIP:SHAPE as plans take it, such as v5p:4x4x4, 2*v6e:16x16 (two slices) or h200:4x8 (four nodes of eight). It sets nodes and the
        flags of the compiler (launch/hardware.py). jobset and tpu_vm need it.
      job_name: of the job, the JobSet or the TPU VM.
      dry_run: only prints what would be submitted.
      env: variables of the command, NAME=VALUE; they replace those that --hardware sets.
      grace_seconds: between SIGTERM and the end of what still runs; 120 on this machine, 300 elsewhere.
      processes: local: processes; more than one needs --devices.
      devices: local: virtual CPU devices of each process; without it, one process with the devices that there are.
      nodes: slurm: nodes, where --hardware does not say it.
      time: slurm: limit of the job, as sbatch reads it. It is queued again after it.
      array: slurm: indices of an array, such as 0-99%8; {index} in the command stands for the index.
      sbatch: slurm: further options of sbatch without dashes, such as partition=gpu.
      image: jobset: the container image.
      volume: jobset: claim of a volume that all pods mount at /data.
      cluster: jobset: name of the cluster in the line of xpk, which --dry-run prints.
      zone: tpu_vm: zone of the slice.
      action: tpu_vm: start, stop or logs.
      folder: of the repository where the command runs; the folder that sbatch is called in, /neo_jax in a container, neo_jax on a TPU VM.
      restarts: slurm: restarts after which exit codes other than 77 are final (10); jobset: restarts of all pods (50).
      start_seconds: how long processes wait for each other at the start.
    """

    target: Annotated[str, OneOf(tuple(OF_TARGET))]
    hardware: str = ""
    job_name: Text = "neo-jax"
    dry_run: bool = False
    env: tuple[Text, ...] = ()
    grace_seconds: Positive | None = None
    processes: Positive = 1
    devices: Whole = 0
    nodes: Positive | None = None
    time: Text = "24:00:00"
    array: str = ""
    sbatch: tuple[Text, ...] = ()
    image: str = ""
    volume: str = ""
    cluster: Annotated[str, NotEmpty()] = "CLUSTER"
    zone: str = ""
    action: Annotated[str, OneOf(tpu_vm.ACTIONS)] = "start"
    folder: str = ""
    restarts: Positive | None = None
    start_seconds: Positive = 600

    def problems(self) -> Iterator[tuple[str, str]]:
        for field in dataclasses.fields(self):
            users = [target for target, names in OF_TARGET.items() if field.name in names]
            if users and self.target not in users and getattr(self, field.name) != field.default:
                yield field.name, f"is a flag of --target={' and '.join(users)}, not of {self.target}: leave it out"
        for each in self.env:
            if not re.match(r"[A-Za-z_]\w*=", each):
                yield "env", f"{each!r} must be NAME=VALUE"
        if self.target == "local" and self.processes > 1 and not self.devices:
            yield "devices", f"is missing: {self.processes} processes need to know how many virtual CPU devices each has"
        if self.target in ("jobset", "tpu_vm") and not self.hardware:
            yield "hardware", f"is missing: {self.target} needs it, such as --hardware=v5p:4x4x4"
        if self.hardware and self.nodes:
            yield "nodes", "is given, and --hardware too, which says it: leave one of them out"


def main(arguments: Sequence[str]) -> int:
    before, _, after = (list(part) for part in _split(arguments))
    try:
        flags, _ = read_flags(Flags, before, COMMAND)
        hosts = find_hosts(flags.hardware) if flags.hardware else None
        command = read_command(after, flags, hosts) if flags.action == "start" else []
        return {"local": _local, "slurm": _slurm, "jobset": _jobset, "tpu_vm": _tpu_vm}[flags.target](flags, command, hosts)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIGURATION


def read_command(words: Sequence[str], flags: Flags, hosts: Hosts | None) -> list[str]:
    """Checks the command after -- and the configuration in it; returns its words, with the flags that its target adds.

    Raises:
      ConfigError: another form than PYTHON -m MODULE ..., or a configuration that cannot be used.
    """
    if not words:
        raise ConfigError([f"there is no command: write it after --, as in {COMMAND.example}"])
    if len(words) < 3 or words[1] != "-m":
        raise ConfigError(
            [f"{' '.join(words[:3])}: the command after -- must begin with a Python, -m and a module: write for example {FORM}"]
        )
    command = list(words)
    settings = config_arguments(command)
    if settings and not any(slurm.INDEX in argument for argument in settings):
        parse_command_line(settings)
    several = (hosts is not None and hosts.count * hosts.slices > 1) or (flags.nodes or 1) > 1
    if several and command[2] not in TRAINS:
        raise ConfigError([f"{command[2]}: is a command of one process: give it one host"])
    if command[2] in TRAINS and flags.target != "local":
        command.insert(3, f"--start-seconds={flags.start_seconds}")
        if flags.target == "jobset" and hosts is not None:
            command += jobset.process_flags(flags.job_name, hosts)
    return command


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place : place + 1], arguments[place + 1 :]


def _environment(flags: Flags, hosts: Hosts | None) -> dict[str, str]:
    given = {name: value for name, _, value in (each.partition("=") for each in flags.env)}
    return (environment(hosts.chip, hosts.slices) if hosts else {}) | given


def _local(flags: Flags, command: list[str], hosts: Hosts | None) -> int:
    if hosts and hosts.count * hosts.slices > 1:
        raise ConfigError(
            [f"--hardware={flags.hardware}: is {hosts.count * hosts.slices} hosts, and this machine is one: name its own hardware"]
        )
    if not (settings := config_arguments(command)):
        raise ConfigError([f"{command[2]}: has no --config: on this machine a run is supervised by the checkpoints in its run directory"])
    directory = parse_command_line(settings).run.directory
    grace = flags.grace_seconds or local.GRACE_SECONDS
    job = local.Job(
        command=command,
        directory=directory,
        processes=flags.processes,
        devices=flags.devices,
        grace_seconds=grace,
        environment=_environment(flags, hosts),
    )
    if flags.dry_run:
        print(local.line(job))
        return DONE
    if shutil.which(command[0]) is None:
        raise ConfigError([f"{command[0]}: no such program: the command after -- begins with a Python, as in {FORM}"])
    return local.submit(job)


def _slurm(flags: Flags, command: list[str], hosts: Hosts | None) -> int:
    if hosts and hosts.is_tpu:
        raise ConfigError([f"--hardware={flags.hardware}: TPUs have no SLURM: use --target=jobset or tpu_vm"])
    text = slurm.script(
        slurm.Job(
            command=command,
            folder=flags.folder,
            name=flags.job_name,
            nodes=hosts.count if hosts else flags.nodes or 1,
            gpus_per_node=hosts.chips if hosts else 0,
            exclusive=not flags.array,
            time=flags.time,
            signal_seconds=flags.grace_seconds or 300,
            retries=flags.restarts or 10,
            array=flags.array,
            options=flags.sbatch,
            environment=_environment(flags, hosts),
        )
    )
    if flags.dry_run:
        print(text, end="")
        return DONE
    return slurm.submit(text)


def _jobset(flags: Flags, command: list[str], hosts: Hosts | None) -> int:
    assert hosts is not None
    job = jobset.Job(
        command=command,
        hosts=hosts,
        image=flags.image,
        name=flags.job_name,
        folder=flags.folder or jobset.FOLDER,
        volume=flags.volume,
        restarts=flags.restarts or 50,
        grace_seconds=flags.grace_seconds or 300,
        environment=_environment(flags, hosts),
    )
    text = jobset.manifest(job)
    if flags.dry_run:
        xpk = f"# the same with xpk: {jobset.xpk_line(job, flags.cluster)}\n" if hosts.is_tpu else ""
        print(xpk + text, end="")
        return DONE
    return jobset.submit(text)


def _tpu_vm(flags: Flags, command: list[str], hosts: Hosts | None) -> int:
    assert hosts is not None
    job = tpu_vm.Job(
        command=command,
        hosts=hosts,
        name=flags.job_name,
        zone=flags.zone,
        folder=flags.folder or "neo_jax",
        grace_seconds=flags.grace_seconds or 300,
        environment=_environment(flags, hosts),
    )
    if flags.dry_run:
        print(f"# create the slice, once: {tpu_vm.create_line(job)}\n{tpu_vm.shown(job, flags.action)}")
        return DONE
    return tpu_vm.submit(job, flags.action)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
