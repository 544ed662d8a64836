"""Every flag that the launcher sets for TPUs is known to libtpu, and accepted for the chip that it is set for."""

import os
import subprocess
import sys

import pytest

from launch.hardware import LIBTPU, environment
from neo_jax.planning.devices import SMALLEST_SLICES

# A gradient through two layers whose weights lie sharded: with all-gathers and reductions, which the flags are about.
PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from neo_jax.planning.devices import open_hardware

mesh = Mesh(np.array(open_hardware(sys.argv[1]).devices), ("fsdp",))
rows, matrices = (NamedSharding(mesh, spec) for spec in (P("fsdp"), P(None, "fsdp")))
x = jax.ShapeDtypeStruct((4096, 2048), jnp.bfloat16, sharding=rows)
w = jax.ShapeDtypeStruct((2, 2048, 2048), jnp.bfloat16, sharding=matrices)

def loss(w, x):
    return jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0].astype(jnp.float32))

program = jax.jit(jax.grad(loss), out_shardings=matrices).lower(w, x).compile().as_text()
assert "all-gather" in program, program
"""


def compile_for(hardware: str, flags: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != LIBTPU} | {LIBTPU: flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, hardware], env=variables, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("chip", SMALLEST_SLICES)
def test_every_flag_is_accepted(chip):
    compiled = compile_for(SMALLEST_SLICES[chip], environment(chip, slices=2)[LIBTPU])
    assert compiled.returncode == 0, compiled.stderr[-2000:]


def test_an_unknown_flag_ends_the_start():
    compiled = compile_for("v5p:2x2x1", environment("v5p")[LIBTPU] + " --xla_tpu_no_such_flag=true")
    assert compiled.returncode != 0 and "Unknown command line flag 'xla_tpu_no_such_flag'" in compiled.stderr


def test_a_flag_that_a_chip_does_not_have_is_refused():
    flags = "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_enable_async_all_gather=true"
    compiled = compile_for("v5p:2x2x1", flags)
    assert compiled.returncode != 0 and "FAILED_PRECONDITION" in compiled.stderr
