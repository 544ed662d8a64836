"""Every flag of the table exists in the installed jaxlib, and what is shipped suits the models. Those of libtpu: tests/aot/test_flags.py."""

import math
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from launch.hardware import HOPPER, LAYER_BYTES, LIBTPU, SETTINGS, XLA, environment
from neo_jax.chips import CHIPS
from neo_jax.config import parse_command_line
from neo_jax.model.backbone import abstract
from neo_jax.sharding import make_mesh

PROGRAM = """
import jax
assert int(jax.jit(lambda x: x + 1)(1)) == 2
print(jax.config.jax_optimization_level)
"""


def start(**variables: str) -> subprocess.CompletedProcess[str]:
    """Starts jax on the CPU, whose build of XLA parses the flags of all its backends."""
    clean = {name: value for name, value in os.environ.items() if name not in (XLA, LIBTPU)}
    environment = clean | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"} | variables
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("chip", HOPPER)
def test_every_variable_and_flag_of_a_gpu_is_known(chip):
    variables = environment(chip)
    assert variables.keys() == {"XLA_PYTHON_CLIENT_MEM_FRACTION", "JAX_OPTIMIZATION_LEVEL", "CUDA_DEVICE_MAX_CONNECTIONS", XLA}
    started = start(**variables)
    assert started.returncode == 0, started.stderr
    assert started.stdout == "O1\n", "jax reads the variable"


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({XLA: environment("h200")[XLA] + " --xla_gpu_no_such_flag=true"}, "xla_gpu_no_such_flag"),
        ({XLA: "--xla_gpu_all_gather_combine_threshold_bytes=many"}, "xla_gpu_all_gather_combine_threshold_bytes"),
        ({"JAX_OPTIMIZATION_LEVEL": "O9"}, "O9"),
    ],
)
def test_an_unknown_one_ends_the_start(variables, sentence):
    started = start(**variables)
    assert started.returncode != 0 and sentence in started.stderr


def test_collectives_are_combined_over_at_least_a_layer():
    settings = parse_command_line(["--config=configs/neo_ov_9b.py"])
    with jax.set_mesh(make_mesh(data=-1)):
        parameters = abstract(settings.model, "neo")
    stacks = {name.partition(".")[0] for name, x in parameters.items() if len(x.shape) > 2}
    layer = max(sum(math.prod(x.shape[1:]) for name, x in parameters.items() if name.startswith(f"{stack}.")) for stack in stacks)
    assert 0.5 * LAYER_BYTES < 2 * layer <= LAYER_BYTES


def test_every_setting_has_an_effect_and_a_source():
    for setting in SETTINGS:
        assert set(setting.chips) <= CHIPS.keys() and setting.effect and setting.source
        assert (setting.variable == LIBTPU) == all(CHIPS[chip].torus > 0 for chip in setting.chips)
        assert setting.value.startswith("--xla_") == (setting.variable in (LIBTPU, XLA))
    names = [(setting.variable, setting.value.partition("=")[0], chip) for setting in SETTINGS for chip in setting.chips]
    once = [name for name in names if name[0] in (LIBTPU, XLA)]
    assert len(once) == len(set(once))


def test_the_documentation_lists_the_table():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    for setting in SETTINGS:
        value = setting.value if setting.value.startswith("--") else f"{setting.variable}={setting.value}"
        chips = ", ".join(setting.chips) + (", several slices" if setting.slices else "")
        assert f"| {chips} | `{value}` | {setting.effect} | {setting.source} |\n" in text


def test_flags_between_slices_are_for_several():
    assert "data_parallel" not in environment("v5p")[LIBTPU] and "data_parallel" in environment("v5p", slices=2)[LIBTPU]
    assert environment("v5e") == {}
