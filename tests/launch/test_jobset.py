"""The manifests against the schema of JobSet, and against the rules of JobSet and batch/v1 that no schema holds."""

import copy
import json
import math
import pathlib
import re

import pytest
import yaml

from launch import run
from launch.hosts import find_hosts
from launch.targets.jobset import Job, manifest, xpk_line
from neo_jax.config import ConfigError
from neo_jax.config.flags import read_flags
from neo_jax.exit_codes import CONFIGURATION, DATA, NOT_FINITE
from neo_jax.processes.flags import Flags
from neo_jax.train import COMMAND
from tests.launch.schema import problems

SCHEMA = json.loads((pathlib.Path(__file__).parent / "schemas" / "jobset.json").read_text())
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
HARDWARE = ("v5e:4x4", "v5p:2x2x4", "2*v5p:4x4x4", "v6e:1x1", "3*v6e:16x16", "tpu7x:2x2x2", "h100:1x8", "h200:4x8")


@pytest.fixture(scope="module", params=HARDWARE)
def case(request):
    return request.param


def printed(hardware: str, capsys, *flags: str) -> str:
    command = ["python", "-m", "neo_jax.train", "--config=configs/demo.py"]
    arguments = [
        "--target=jobset",
        f"--hardware={hardware}",
        "--image=registry/neo:1",
        "--volume=neo-data",
        "--dry-run",
        *flags,
        "--",
        *command,
    ]
    assert run.main(arguments) == 0
    return capsys.readouterr().out


def test_schema(case, capsys):
    assert problems(yaml.safe_load(printed(case, capsys)), SCHEMA) == []


def test_the_schema_finds_mistakes(capsys):
    good = yaml.safe_load(printed("v5p:2x2x4", capsys))

    def broken(change) -> list[str]:
        value = copy.deepcopy(good)
        change(value["spec"], value["spec"]["replicatedJobs"][0]["template"]["spec"])
        return problems(value, SCHEMA)

    assert "unknown field failurePolice" in broken(lambda spec, job: spec.update(failurePolice={}))[0]
    assert "is not one of" in broken(lambda spec, job: spec["failurePolicy"].update(restartStrategy="Never"))[0]
    assert "containers is missing" in broken(lambda spec, job: job["template"]["spec"].pop("containers"))[0]
    assert "is no integer" in broken(lambda spec, job: job.update(parallelism="4"))[0]
    assert "is no string" in broken(lambda spec, job: job["template"]["spec"]["containers"][0].update(env=[{"name": "A", "value": 1}]))[0]
    assert "unknown field exitCodes" in broken(lambda spec, job: job["podFailurePolicy"]["rules"][0].update(exitCodes=[1]))[0]


def test_rules_of_jobset(case, capsys):
    value = yaml.safe_load(printed(case, capsys))
    assert (value["apiVersion"], value["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (rule,) = value["spec"]["failurePolicy"]["rules"]
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    for job in value["spec"]["replicatedJobs"]:
        assert re.fullmatch(LABEL, job["name"])
        # Pods are named JOBSET-JOB-REPLICA-INDEX-SUFFIX, and the name of a host holds 63 characters.
        assert len(f"{'n' * 40}-{job['name']}-99-999-abcde") <= 63


def test_rules_of_jobs(case, capsys):
    value = yaml.safe_load(printed(case, capsys))
    (job,) = value["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] and spec["completionMode"] == "Indexed" and spec["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never", "a podFailurePolicy needs it"
    assert pod["terminationGracePeriodSeconds"] >= 120
    (container,) = pod["containers"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert (rule["action"], codes["containerName"], codes["operator"]) == ("FailJob", container["name"], "In")
    assert codes["values"] == sorted({DATA, NOT_FINITE, CONFIGURATION}), "the API wants them in order, each once"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert 8482 in [port["containerPort"] for port in container["ports"]]


def test_the_container_runs_the_trainer(case, capsys):
    value = yaml.safe_load(printed(case, capsys))
    (container,) = value["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "neo_jax.train"], "a shell in front would keep SIGTERM from Python"
    arguments = [argument.replace("$(JOB_COMPLETION_INDEX)", "0") for argument in container["args"]]
    flags, rest = read_flags(Flags, arguments, COMMAND)
    assert flags.start_seconds > 300 and rest == ["--config=configs/demo.py"]
    if "h200" in case:
        assert (flags.processes, flags.coordinator) == (4, "neo-jax-slice-0-0.neo-jax:8482")
        assert {"name": "CUDA_DEVICE_MAX_CONNECTIONS", "value": "1"} in container["env"]
    else:
        assert flags.processes == (1 if "h100" in case else None)


def test_as_many_hosts_as_the_hardware_has(case, capsys):
    value = yaml.safe_load(printed(case, capsys))
    (job,) = value["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    chips = sum(pod["containers"][0]["resources"]["limits"].values()) * spec["parallelism"] * job["replicas"]
    slices, shape = re.fullmatch(r"(?:(\d+)\*)?\w+:(.*)", case).groups()
    assert chips == int(slices or 1) * math.prod(map(int, shape.split("x"))) and job["replicas"] == int(slices or 1)
    selector = pod["nodeSelector"]
    if case.startswith("h"):
        assert selector.keys() == {"cloud.google.com/gke-accelerator"} and pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    else:
        assert selector["cloud.google.com/gke-tpu-topology"] == shape
        assert selector["cloud.google.com/gke-tpu-accelerator"].startswith("tpu")


def test_xpk(capsys):
    line = printed("2*v5p:2x2x4", capsys, "--cluster=mine").partition("\n")[0]
    assert "--tpu-type=v5p-32 --num-slices=2 " in line and "--cluster=mine" in line and "--restart-on-exit-codes=1,75,77 " in line
    assert "'--command=cd /neo_jax && exec python -m neo_jax.train --start-seconds=600 --config=configs/demo.py'" in line
    assert "--tpu-type=v5litepod-16 " in xpk_line(Job(command=("a",), hosts=find_hosts("v5e:4x4"), image="i"), "c")
    assert "xpk" not in printed("h200:4x8", capsys)


@pytest.mark.parametrize(
    ("change", "sentence"), [({"image": ""}, "--image is missing"), ({"name": "Neo"}, "small letters"), ({"name": "n" * 41}, "40")]
)
def test_refused(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        manifest(Job(**{"command": ("a", "-m", "b"), "hosts": find_hosts("v5e:4x4"), "image": "i"} | change))


@pytest.mark.parametrize("hardware", ["v5p:2x3x1", "v9:1x1", "h200:2*8", "2*h200:1x8", "v6e:1x2"])
def test_hardware_that_there_is_not(hardware):
    with pytest.raises(ConfigError, match="--hardware="):
        find_hosts(hardware)
