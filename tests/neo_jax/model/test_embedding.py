"""Looking up tokens in a table that is spread over the devices: the rows themselves, and a gradient that is added up in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from neo_jax.model.embedding import lookup
from neo_jax.sharding import make_mesh, spec

MESHES = [{"data": 8}, {"fsdp": 8}, {"tensor": 8}, {"fsdp": 2, "context": 2, "tensor": 2}]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("axes", MESHES, ids="-".join)
def test_rows_and_their_gradient(axes, dtype):
    """One token stands in every place but a few: in bfloat16 its gradient would stop growing at 256."""
    rng = np.random.default_rng(0)
    mesh = make_mesh(**axes)
    table = jnp.asarray(rng.standard_normal((64, 32)), dtype)
    tokens = np.full((8, 512), 5, np.int32)
    tokens[:, ::8] = rng.integers(0, 64, (8, 64))
    with jax.set_mesh(mesh):
        spread = jax.device_put(table, NamedSharding(mesh, spec("vocabulary", "embed")))
        placed = jax.device_put(tokens, NamedSharding(mesh, spec("batch", "length")))
        found, pullback = jax.vjp(lambda table: lookup(table, placed, jnp.float32), spread)
        (gradient,) = pullback(jax.device_put(np.ones((8, 512, 32), np.float32), NamedSharding(mesh, spec("batch", "length", None))))
    np.testing.assert_array_equal(found, np.asarray(table, np.float32)[tokens])
    counts = np.bincount(tokens.reshape(-1), minlength=64)[:, None] * np.ones(32)
    np.testing.assert_allclose(np.asarray(gradient, np.float64), counts, rtol=0 if dtype == jnp.float32 else 2**-7)
