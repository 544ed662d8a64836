"""The Hopper kernels compiled ahead of time for an H200: registers, spills, what ptxas warns of, and memory. make test-aot-gpu runs this."""

import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("jax_cuda13_plugin", reason="compiling for GPUs needs the environment of requirements-gpu.txt: make test-aot-gpu")

PROGRAM = pathlib.Path(__file__).with_name("compile_kernels.py")
SPILLED_BYTES = {"interval_attention_forward": 0, "interval_attention_dq": 0, "interval_attention_dkv": 64}  # at most
HEADS = {"2b": (16, 8), "9b": (32, 8)}  # query heads, key heads
LENGTHS = (8192, 36864, 131072)


@pytest.fixture(scope="module", params=HEADS)
def reports(request):
    """What the compilers say, by length."""

    def report(length):
        run = subprocess.run([sys.executable, PROGRAM, *map(str, (length, *HEADS[request.param]))], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    return {length: report(length) for length in LENGTHS}


def test_registers_suffice(reports):
    for report in reports.values():
        functions = report.split("Compiling entry function '")[1:]
        names = [function.split("_mosaic_gpu_kernel'")[0] for function in functions]
        assert set(names) == set(SPILLED_BYTES)
        for name, function in zip(names, functions, strict=True):
            stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", function).groups()
            assert max(int(stores), int(loads)) <= SPILLED_BYTES[name], function


def test_assembler_sees_no_loss(reports):
    """Such as "(C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized", "(C7504) 'setmaxnreg' ignored"."""
    for report in reports.values():
        assert not re.findall(r".*\(C75\d\d\).*", report)


def test_memory_is_linear_in_length(reports):
    sizes = {length: [int(x) for x in re.search(r"forward (\d+), backward (\d+)", report).groups()] for length, report in reports.items()}
    shortest = sizes[min(LENGTHS)]
    for length, temporary in sizes.items():
        for bytes_, bytes_at_shortest in zip(temporary, shortest, strict=True):
            assert bytes_ <= bytes_at_shortest * length / min(LENGTHS) * 1.1


def test_attention_that_rematerialisation_keeps_is_computed_once(reports):
    """The compiled gradient holds one forward kernel less."""
    for report in reports.values():
        recomputed, kept = map(int, re.search(r"rematerialised layer: (\d+), with its attention kept (\d+)", report).groups())
        assert recomputed == kept + 1
