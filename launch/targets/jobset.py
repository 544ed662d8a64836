"""Manifests for the JobSet controller of Kubernetes (v0.8 or newer), for TPU slices and GPU nodes of GKE: one process a host.

jax finds the processes of TPUs by the variables that GKE sets in each pod. On GPUs they get --processes, --process and --coordinator. If a process
ends with an exit code that is not final, or a host is lost, all pods start again; training resumes exactly.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from launch.hosts import TOPOLOGY, Hosts
from launch.submit import call
from neo_jax.config import ConfigError
from neo_jax.exit_codes import DONE, FAILED, FINAL, PREEMPTED, TRY_AGAIN
from neo_jax.processes.flags import SECRET

JOB, CONTAINER, VOLUME, MEMORY = "slice", "train", "data", "memory"
FOLDER, MOUNT, USER = "/neo_jax", "/data", 1000  # of the image that the Containerfile builds
LABEL = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")  # a pod is named NAME-slice-REPLICA-INDEX-SUFFIX, in 63 characters
# Of jax's coordinator, of the chips of a slice, and between slices.
COORDINATOR_PORT, PORTS = 8482, (8471, 8080, 8482)
SECRET_NAME, SECRET_KEY = (
    "neo-jax",
    "secret",
)  # of the cluster's secret by which processes know each other; without it, the network is trusted
RETRIED = (FAILED, TRY_AGAIN, PREEMPTED)  # beside those of killed processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a JobSet runs, and how.

    Attributes:
      command: program and arguments of the container, run once on each host.
      hosts: what it runs on.
      image: of the container, with the environment and the repository.
      name: of the JobSet.
      folder: in which the command runs in the container.
      volume: name of a claim (ReadWriteMany) that all pods mount at MOUNT: run directory, index and data lie there; "": none.
      restarts: of all pods, after which the next failure is final.
      grace_seconds: between SIGTERM and the end of a pod. Spot hosts are gone after 30 s whatever stands here.
      environment: variables of the command.
      labels, annotations: of the JobSet.
    """

    command: Sequence[str]
    hosts: Hosts
    image: str
    name: str = "neo-jax"
    folder: str = FOLDER
    volume: str = ""
    restarts: int = 50
    grace_seconds: int = 300
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)


def manifest(job: Job) -> str:
    """Returns the manifest of a job, as YAML.

    Raises:
      ConfigError: no image, or a name that Kubernetes refuses.
    """
    if not job.image:
        raise ConfigError(["--image is missing: the container image that the pods run; the Containerfile builds one"])
    if not LABEL.fullmatch(job.name):
        raise ConfigError([f"--job-name={job.name}: Kubernetes wants at most 40 small letters, digits and -, with a letter in front"])
    return yaml.safe_dump(_jobset(job), sort_keys=False, width=140)


def submit(text: str) -> int:
    """Gives a manifest to kubectl; returns its exit code. Raises ConfigError if there is no kubectl."""
    return call(["kubectl", "apply", "--filename=-"], text, "the client of Kubernetes: install it and name a cluster to it")


def xpk_line(job: Job, cluster: str) -> str:
    """Returns the command line of xpk that runs the same on TPUs. xpk mounts volumes by `xpk storage`, not here."""
    hosts = job.hosts
    words = [
        *("xpk", "workload", "create", f"--workload={job.name}", f"--cluster={cluster}"),
        f"--tpu-type={hosts.kind.prefix}-{hosts.count * hosts.chips * hosts.kind.cores}",
        f"--num-slices={hosts.slices}",
        f"--docker-image={job.image}",
        f"--max-restarts={job.restarts}",
        f"--restart-on-exit-codes={','.join(map(str, RETRIED))}",
        f"--termination-grace-period-seconds={job.grace_seconds}",
        *(f"--env={name}={value}" for name, value in job.environment.items()),
        f"--command=cd {shlex.quote(job.folder)} && exec {shlex.join(job.command)}",
    ]
    return shlex.join(words)


def process_flags(name: str, hosts: Hosts) -> list[str]:
    """Returns the flags by which the processes of GPU nodes find each other in the JobSet of this name; none for TPUs."""
    if hosts.is_tpu:
        return []
    if hosts.count == 1:
        return ["--processes=1"]  # else jax would ask Kubernetes for the other pods
    # Kubernetes puts the index of the pod in place of $(JOB_COMPLETION_INDEX).
    return [f"--processes={hosts.count}", "--process=$(JOB_COMPLETION_INDEX)", f"--coordinator={name}-{JOB}-0-0.{name}:{COORDINATOR_PORT}"]


def _jobset(job: Job) -> dict[str, Any]:
    # One slice, one node pool. GPU nodes of one run may lie in several.
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"} if job.hosts.is_tpu else {}
    described = {"labels": dict(job.labels), "annotations": {**exclusive, **job.annotations}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": job.name} | {key: value for key, value in described.items() if value},
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},  # processes find each other before any is ready
            "successPolicy": {"operator": "All"},
            "failurePolicy": {
                "maxRestarts": job.restarts,
                # The old pods are gone, and with them the run directory's lock, before new ones start.
                "restartStrategy": "BlockingRecreate",
                "rules": [{"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": JOB, "replicas": job.hosts.slices, "template": {"spec": _job(job)}}],
        },
    }


def _job(job: Job) -> dict[str, Any]:
    final = sorted(code for code in FINAL if code != DONE)
    return {
        "parallelism": job.hosts.count,
        "completions": job.hosts.count,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # one lost process ends its group: JobSet starts all again
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": final}}]
        },
        "template": {"spec": _pod(job)},
    }


def _pod(job: Job) -> dict[str, Any]:
    hosts = job.hosts
    # GKE taints nodes with GPUs; those with TPUs too, where it sets the toleration by itself.
    tolerations = [] if hosts.is_tpu else [{"key": hosts.kind.resource, "operator": "Exists", "effect": "NoSchedule"}]
    volumes = {VOLUME: (MOUNT, {"persistentVolumeClaim": {"claimName": job.volume}})} if job.volume else {}
    if not hosts.is_tpu:
        volumes[MEMORY] = ("/dev/shm", {"emptyDir": {"medium": "Memory"}})  # NCCL needs more than the 64 MB that a container has
    reference = {"name": SECRET_NAME, "key": SECRET_KEY, "optional": True}
    secret = {"name": SECRET, "valueFrom": {"secretKeyRef": reference}}
    container = {
        "name": CONTAINER,
        "image": job.image,
        "workingDir": job.folder,
        "command": list(job.command[:3]),  # no shell in front: SIGTERM must reach Python
        "args": list(job.command[3:]),
        "env": [*({"name": name, "value": value} for name, value in job.environment.items()), secret],
        "ports": [{"containerPort": port} for port in PORTS],
        "resources": {"limits": {hosts.kind.resource: hosts.chips}},
        "volumeMounts": [{"name": name, "mountPath": path} for name, (path, _) in volumes.items()],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_seconds,
        "securityContext": {"fsGroup": USER},  # the volume is the user's, who is not root
        "nodeSelector": dict(hosts.kind.labels) | ({TOPOLOGY: hosts.topology} if hosts.is_tpu else {}),
        "tolerations": tolerations,
        "containers": [{key: value for key, value in container.items() if value}],
        "volumes": [{"name": name} | source for name, (_, source) in volumes.items()],
    }
    return {key: value for key, value in pod.items() if value}
