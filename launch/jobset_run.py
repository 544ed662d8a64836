"""Runs of a sweep on Kubernetes: each is a JobSet, which this launcher applies, watches and deletes. Its pods go on if the launcher is killed."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import re
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

from data_pipelines.printable import printable
from launch import kubernetes
from launch.hardware import environment
from launch.hosts import Hosts, find_hosts
from launch.kubernetes import Cluster, ClusterError, ask, exit_code, say
from launch.targets import jobset
from neo_jax.config import ConfigError
from neo_jax.exit_codes import DONE, FAILED, PREEMPTED
from neo_jax.sweeps.file import Sweep
from neo_jax.sweeps.folder import Listed, SweepFolder

TARGET = "jobset"
SWEEP, FOLDER = "neo-jax/sweep", "neo-jax/folder"  # label and annotation of JobSets
LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
START_SECONDS = 600  # how long the processes of a run wait for each other
APPLIES = 3  # times that kubectl refuses a JobSet before the run has failed


class JobsetRun:
    """One run as a JobSet. One of its name that is there already is watched, not applied a second time.

    Args:
      cluster: where it runs.
      name: of the JobSet.
      folder: of the sweep, absolute.
      manifest: of the JobSet.
      log: takes what its first process has printed, and what this says.
    """

    def __init__(self, cluster: Cluster, name: str, folder: str, manifest: str, log: TextIO):
        self._cluster, self._name, self._folder, self._manifest, self._log = cluster, name, folder, manifest, log
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Deletes the JobSet, once `run` looks at it: its pods save within their grace period, and `run` returns."""
        self._stopping.set()

    def run(self) -> int:
        """Applies the JobSet, or finds it; returns the exit code of its processes when it has ended and is gone, PREEMPTED after `stop`."""
        seen, refused = False, 0
        while True:
            found = self._cluster.jobset(self._name)
            if found is None and (seen or self._stopping.is_set()):
                self._cluster.delete(self._name)  # waits for pods that are left
                if self._stopping.is_set():
                    return PREEMPTED
                self._say("was deleted, not by this launcher: the run has failed; retry lets it be launched again")
                return FAILED
            if found is None:
                try:
                    ask("apply", "--filename=-", text=self._manifest)
                    seen = True
                    continue
                except ClusterError as error:
                    refused += 1
                    if refused == APPLIES:
                        self._say(f"cannot be made: {error}")
                        return FAILED
            elif found["metadata"].get("annotations", {}).get(FOLDER) != self._folder:
                self._say(
                    "is there, of another sweep or none: wait until it is gone, or delete it; then retry lets the run be launched again"
                )
                return FAILED
            elif "deletionTimestamp" not in found["metadata"]:
                if not seen:
                    self._say("is there already, from an earlier launcher: it goes on")
                seen = True
                ended = self._ended(found)
                if ended is not None:
                    return ended
                if self._stopping.is_set():
                    self._close("")
                    return PREEMPTED
            if self._stopping.is_set():
                time.sleep(kubernetes.POLL_SECONDS)
            else:
                self._stopping.wait(kubernetes.POLL_SECONDS)

    def _ended(self, found: dict[str, Any]) -> int | None:
        """Returns the exit code of a JobSet that has ended, which it deletes; None if it goes on."""
        ended = exit_code(found, self._cluster.pods(self._name))
        if ended is None:
            return None
        code, pod = ended
        if code != DONE and not pod:
            messages = [each.get("message", "") for each in found["status"]["conditions"] if each["type"] == "Failed"]
            self._say(f"has failed, and no pod says its exit code: {printable(' '.join(messages))}")
        self._close(pod)
        return code

    def _close(self, pod: str) -> None:
        """Keeps the logs of the first pod and of another that explains the end, if any, and deletes the JobSet."""
        first = [each["metadata"]["name"] for each in self._cluster.pods(self._name)[:1]]
        for name in dict.fromkeys([*first, *([pod] if pod else [])]):
            try:
                print(ask("logs", name, f"--container={jobset.CONTAINER}"), end="", file=self._log, flush=True)
            except ClusterError as error:  # a pod that never started, or whose host is gone
                print(f"jobset: the log of pod {name} is lost: {error}", file=self._log, flush=True)
        self._cluster.delete(self._name)

    def _say(self, sentence: str) -> None:
        print(f"jobset: JobSet {self._name} {sentence}", file=self._log, flush=True)
        say(f"JobSet {self._name} {sentence}")


@dataclasses.dataclass(frozen=True)
class JobsetRuns:
    """Makes the JobSets of a sweep.

    Attributes:
      sweep, folder: whose runs they are.
      hosts: of each run.
      image: of the containers.
      volume: claim in which the folder lies.
      grace_seconds: between SIGTERM and the end of a pod.
      cluster: where they run.
    """

    sweep: Sweep
    folder: SweepFolder
    hosts: Hosts
    image: str
    volume: str
    grace_seconds: int
    cluster: Cluster = dataclasses.field(default_factory=Cluster)

    def manifest(self, run: Listed) -> str:
        name, path = jobset_name(run), str(self.folder.path)
        flags = [f"--start-seconds={START_SECONDS}", f"--config={self.folder.configuration(run.name)}"]
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{path}/compilation_cache"}  # one for all runs
        return jobset.manifest(
            jobset.Job(
                command=["python", "-m", self.sweep.command, *flags, *jobset.process_flags(name, self.hosts)],
                hosts=self.hosts,
                image=self.image,
                name=name,
                volume=self.volume,
                grace_seconds=self.grace_seconds,
                environment=environment(self.hosts.chip, self.hosts.slices) | cache,
                labels={SWEEP: self.sweep.name},
                annotations={FOLDER: path},
            )
        )

    def __call__(self, run: Listed, log: TextIO) -> JobsetRun:
        return JobsetRun(self.cluster, jobset_name(run), str(self.folder.path), self.manifest(run), log)


def jobset_runs(sweep: Sweep, folder: SweepFolder, hardware: str, image: str, volume: str, grace_seconds: int) -> JobsetRuns:
    """Returns what makes the JobSets of a sweep.

    Raises:
      ConfigError: something is missing, the folder does not lie in the volume, or the sweep's name is no label.
    """
    mount, path = pathlib.Path(jobset.MOUNT), folder.path
    given = {"hardware": (hardware, "v6e:4x4"), "image": (image, "REGISTRY/neo_jax:tpu"), "volume": (volume, "CLAIM")}
    problems = [f"--{name} is missing: jobset needs it, such as --{name}={such}" for name, (value, such) in given.items() if not value]
    if ".." in path.parts or not path.parent.is_relative_to(mount):
        problems.append(
            f"--folder={path.parent}: must lie under {mount}, where pods mount the volume: write for example --folder={mount}/sweeps"
        )
    if not LABEL.fullmatch(sweep.name):
        problems.append(f"{sweep.name}: no label of Kubernetes: name the file with at most 63 letters, digits, -, _ and . alone")
    if problems:
        raise ConfigError(problems)
    return JobsetRuns(sweep, folder, find_hosts(hardware), image, volume, grace_seconds)


def check_mount() -> None:
    """Raises ConfigError unless there is a folder here where pods have the volume."""
    if not pathlib.Path(jobset.MOUNT).is_dir():
        raise ConfigError(
            [
                f"{jobset.MOUNT}: no such folder here: start the launcher where the volume is mounted there, as in pods, which read what it writes"
            ]
        )


def stop_left(folder: SweepFolder, left: Sequence[Listed]) -> None:
    """Ends JobSets that no launcher watches any more, as `stop` of their launcher would have done. The caller holds the folder's lock."""
    cluster = Cluster()

    def end(run: Listed) -> None:
        with folder.log(run.name).open("a") as log:
            work = JobsetRun(cluster, jobset_name(run), str(folder.path), "", log)
            work.stop()
            folder.record(run, "ended", code=work.run())

    with concurrent.futures.ThreadPoolExecutor(max(1, len(left))) as pool:
        list(pool.map(end, left))


def jobset_name(run: Listed) -> str:
    return f"sweep-{run.name}"
