"""The manifest against the rules of JobSet v1alpha2 and batch/v1 that its fields must keep."""

import math
import pathlib
import re

import yaml

from neo_jax.config.flags import read_flags
from neo_jax.exit_codes import CONFIGURATION, DATA, NOT_FINITE
from neo_jax.processes.flags import SECRET, Flags
from neo_jax.train import COMMAND

MANIFEST = yaml.safe_load((pathlib.Path(__file__).parents[2] / "launch" / "gke_jobset.yaml").read_text())
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
JOB_FAILURES = {"BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"}


def only(section: dict, *required: str, optional: tuple[str, ...] = ()) -> dict:
    """The section, after a look at its keys: an unknown one is refused or, worse, dropped by the API server."""
    assert set(required) <= section.keys() <= set(required) | set(optional), section.keys()
    return section


def test_jobset():
    only(MANIFEST, "apiVersion", "kind", "metadata", "spec")
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch(LABEL, MANIFEST["metadata"]["name"])
    spec = only(MANIFEST["spec"], "replicatedJobs", "failurePolicy", "network", "successPolicy")
    only(spec["network"], "enableDNSHostnames", "publishNotReadyAddresses")
    assert only(spec["successPolicy"], "operator")["operator"] in ("All", "Any")
    policy = only(spec["failurePolicy"], "maxRestarts", "rules", "restartStrategy")
    assert policy["restartStrategy"] in ("Recreate", "BlockingRecreate") and 1 <= policy["maxRestarts"] <= 100
    for rule in policy["rules"]:
        only(rule, "name", "action", "onJobFailureReasons")
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        assert rule["action"] in ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
        assert set(rule["onJobFailureReasons"]) <= JOB_FAILURES


def test_job():
    for job in MANIFEST["spec"]["replicatedJobs"]:
        only(job, "name", "replicas", "template")
        assert re.fullmatch(LABEL, job["name"])
        # Pods are named JOBSET-JOB-REPLICA-INDEX-SUFFIX, and the name of a host holds 63 characters.
        assert len(f"{MANIFEST['metadata']['name']}-{job['name']}-99-999-abcde") <= 63
        spec = only(job["template"], "spec")["spec"]
        only(spec, "parallelism", "completions", "completionMode", "backoffLimit", "podFailurePolicy", "template")
        assert spec["parallelism"] == spec["completions"] and spec["completionMode"] == "Indexed"
        assert spec["backoffLimit"] == 0
        pod = only(
            only(spec["template"], "spec")["spec"],
            "restartPolicy",
            "containers",
            "terminationGracePeriodSeconds",
            "nodeSelector",
            "volumes",
        )
        assert pod["restartPolicy"] == "Never", "a podFailurePolicy needs it"
        assert pod["terminationGracePeriodSeconds"] >= 120
        names = [container["name"] for container in pod["containers"]]
        (rule,) = spec["podFailurePolicy"]["rules"]
        assert only(rule, "action", "onExitCodes")["action"] == "FailJob"
        codes = only(rule["onExitCodes"], "containerName", "operator", "values")
        assert codes["containerName"] in names and codes["operator"] == "In"
        assert codes["values"] == sorted({DATA, NOT_FINITE, CONFIGURATION}), "the API wants them in order, each once"


def test_container():
    (job,) = MANIFEST["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    only(container, "name", "image", "command", "args", "ports", "resources", "volumeMounts", optional=("workingDir", "env"))
    assert container["command"][-2:] == ["-m", "neo_jax.train"], "a shell in front would keep SIGTERM from Python"
    flags, rest = read_flags(Flags, container["args"], COMMAND)
    assert flags.start_seconds > 300 and all(argument.startswith("--config") for argument in rest)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    topology = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert math.prod(topology) == chips * job["template"]["spec"]["parallelism"], "as many hosts as the topology has"
    (secret,) = [only(each, "name", "valueFrom") for each in container["env"] if each["name"] == SECRET]
    only(only(secret["valueFrom"], "secretKeyRef")["secretKeyRef"], "name", "key", "optional")
    assert 8482 in [port["containerPort"] for port in container["ports"]]
