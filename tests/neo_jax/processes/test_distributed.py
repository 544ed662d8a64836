"""Where a process stands: from flags, from a cluster's variables, alone; and what of two processes' identities differs."""

import pytest
from jax._src.clusters import cloud_tpu_cluster, cluster

from neo_jax.config.fields import ConfigError
from neo_jax.config.flags import read_flags
from neo_jax.processes import exchange, lifetime
from neo_jax.processes.cluster import Place, clusters, find_place
from neo_jax.processes.flags import Flags
from neo_jax.processes.identity import compare, identity
from neo_jax.processes.rendezvous import GroupError, MissingError
from neo_jax.train import COMMAND

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[07-08,11]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in (*SLURM, "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST", "CUDA_VISIBLE_DEVICES", "JAX_COORDINATOR_PORT"):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_flags():
    rest = ["--config=a.py", "--config.run.seed=3"]
    flags, left = read_flags(
        Flags, [*rest, "--processes=4", "--process=0", "--coordinator=[::1]:80", "--cpu-devices=2", "--start-seconds", "9"], COMMAND
    )
    assert (flags, left) == (Flags(4, 0, "[::1]:80", 2, 9), rest)
    assert find_place(flags) == Place(0, 4, "[::1]:80", [])
    assert read_flags(Flags, rest, COMMAND) == (Flags(), rest)
    assert find_place(Flags()).processes == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--processes=4", "need --process=INDEX and --coordinator=HOST:PORT"),
        ("--processes=4 --process=4 --coordinator=a:1", "4 processes are numbered 0 to 3"),
        ("--processes=four", "--processes: is 'four', must be a whole number"),
        ("--processes=0", "--processes: is 0, must be at least 1"),
        ("--process=-1", "--process: is -1, must be at least 0"),
        ("--process=1 --coordinator=a:1", "need --processes=COUNT"),
        ("--processes=2 --process=1 --coordinator=a", "must be HOST:PORT"),
        ("--proceses=2", "did you mean '--processes'"),
    ],
)
def test_flags_that_are_wrong(arguments, sentence):
    with pytest.raises(ConfigError) as error:
        read_flags(Flags, arguments.split(), COMMAND)
    assert sentence in str(error.value)


def test_slurm(monkeypatch):
    set_all(monkeypatch, SLURM)
    assert find_place(Flags()) == Place(2, 3, "node07:61441", [])  # one process a host uses all of the host's GPUs
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "7000")
    assert find_place(Flags()).coordinator == "node07:7000"
    assert find_place(Flags(processes=1)).processes == 1
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert find_place(Flags()).processes == 1


def test_several_processes_a_host_have_a_gpu_each(monkeypatch):
    set_all(monkeypatch, SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x2),4", "SLURM_LOCALID": "3"})
    assert find_place(Flags()).local_devices == [3]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # the launcher has given it one
    assert find_place(Flags()).local_devices == []


def test_open_mpi(monkeypatch):
    uri = "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"
    set_all(monkeypatch, {"OMPI_MCA_orte_hnp_uri": uri, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"})
    set_all(monkeypatch, {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_VERSION": "4.1.4"})
    place = find_place(Flags())
    assert (place.process, place.processes, place.local_devices) == (1, 2, [1])
    assert place.coordinator.startswith("10.96.0.1:")


@pytest.mark.parametrize(("slices", "slice_", "place"), [(None, None, (1, 2)), ("2", "1", (3, 4))])
def test_hosts_of_tpu_slices(monkeypatch, slices, slice_, place):
    """What GKE sets in the pods of a JobSet, and across slices too; it comes before what jax knows of Kubernetes in general."""
    for module in (cluster, cloud_tpu_cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_PROCESS_ADDRESSES_PATH"):
        monkeypatch.delenv(name, raising=False)
    set_all(monkeypatch, {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "localhost,other", "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    set_all(monkeypatch, {"JOB_COMPLETION_INDEX": "1"})
    one = {"MEGASCALE_COORDINATOR_ADDRESS": "", "MEGASCALE_NUM_SLICES": "", "MEGASCALE_SLICE_ID": ""}
    several = {"MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080", "MEGASCALE_NUM_SLICES": slices, "MEGASCALE_SLICE_ID": slice_}
    monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value", (several if slices else one).get)
    assert find_place(Flags()) == Place(*place, "localhost:8482", [])


def test_a_cluster_that_is_not_understood(monkeypatch):
    set_all(monkeypatch, SLURM | {"SLURM_PROCID": "two"})
    with pytest.raises(GroupError, match=r"not understood.*--processes=1 is a run of one process"):
        find_place(Flags())


def test_a_pod_that_cannot_find_the_others(monkeypatch):
    set_all(monkeypatch, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"})
    with pytest.warns(UserWarning, match="kubernetes"), pytest.raises(GroupError, match="pod 2 of a Kubernetes job"):
        find_place(Flags())


def test_a_cluster_that_does_not_answer(monkeypatch):
    def fails(*_):
        raise RuntimeError("Failed to recognize coordinator address t1k-0")

    monkeypatch.setattr(clusters.ClusterEnv, "auto_detect_unset_distributed_params", fails)
    with pytest.raises(MissingError, match=r"t1k-0.*--coordinator"):
        find_place(Flags())


def test_compare_names_what_differs():
    mine = identity({"run": {"seed": 0, "directory": "a"}, "curriculum": ("x",)})
    assert compare(mine, mine) == []
    assert "neo_jax/processes/identity.py" in mine["files"] and "data_pipelines/loading/loader.py" in mine["files"]
    other = {
        "configuration": {"run": {"seed": 0, "directory": "b"}, "curriculum": ["x"]},
        "files": mine["files"] | {"neo_jax/train.py": "0"},
        "versions": mine["versions"] | {"jax": "0.1"},
    }
    configuration, files, versions = compare(mine, other)
    assert configuration == "configuration (run.directory: 'a' -> 'b')"
    assert files == "source files (neo_jax/train.py)"
    assert versions.startswith("versions (jax: ") and versions.endswith("-> '0.1')")
    strange = compare(mine, {"files": 3, "configuration": {str(i): [] for i in range(30)}})
    assert "and " in strange[0] and "more" in strange[0]


def test_alone_there_is_nobody_to_hear():
    assert exchange.gather({"a": 1}) == [{"a": 1}]
    assert exchange.from_first(3) == 3 and exchange.is_first()
    exchange.barrier()
    lifetime.finish()
