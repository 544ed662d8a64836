"""The TPU kernels compiled for real chips: they fit the default VMEM, their memory is linear in length, their schedules are full."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.tpu_occupancy import occupancy
from data_pipelines.batch import Intervals
from neo_jax.attention.api import attention_with_lse, choose
from neo_jax.planning.devices import SMALLEST_SLICES, one_chip

HEADS = {"2B": (16, 8), "9B": (32, 8)}
LENGTHS = (8192, 36864, 131072)
MIB = 1 << 20


@pytest.mark.parametrize(
    "length",
    # Blocks do not depend on the length, and so neither does VMEM: the longest row is compiled always, the others on request.
    [*(pytest.param(length, marks=pytest.mark.nightly) for length in LENGTHS[:-1]), LENGTHS[-1]],
)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("chip", SMALLEST_SLICES)
def test_compiles_within_the_default_vmem_in_linear_memory(chip, heads, length, record_property):
    """Forward and backward; nothing in the kernels asks for more VMEM than the default."""
    queries, keys = HEADS[heads]
    arrays = [jax.ShapeDtypeStruct((1, length, n, d), jnp.bfloat16) for n, d in ((queries, 256), (keys, 256), (keys, 128))]
    intervals = Intervals(*[jax.ShapeDtypeStruct((1, length), jnp.int32)] * 2)

    def gradients(q, k, v, intervals):
        def loss(q, k, v):
            return attention_with_lse(q, k, v, intervals, 128**-0.5, choose(q, k, v, "tpu"))[0].sum()

        return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    with one_chip(chip) as sharding:
        program = jax.jit(gradients, in_shardings=sharding, out_shardings=sharding).lower(*arrays, intervals)
        temporary = program.compile().memory_analysis().temp_size_in_bytes
    record_property(f"{chip} {heads} {length:,} tokens, temporary memory", f"{temporary / (1 << 20):,.0f} MiB")
    # Bytes a token of q, k, v, the output and their gradients, each once in the kernels' layout.
    assert temporary <= 1.1 * length * 2 * 2 * (queries + keys) * (256 + 128)


@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_schedules_are_full(chip, record_property):
    """Static: from the compiler's bundles. v6e has matrix units of twice the width and the same vector units: there the softmax shows."""
    for kernel, (whole, masked, *_) in occupancy(chip).items():
        ratio = masked.bundles / whole.bundles
        record_property(
            f"{chip} {kernel}, static", f"MXU occupancy {whole.occupancy:.0%} of a whole tile; a masked tile takes {ratio:.2f} of it"
        )
        assert ratio <= 1.4
        if chip == "v5e":
            assert whole.occupancy >= (0.85 if kernel == "forward" else 0.90)
