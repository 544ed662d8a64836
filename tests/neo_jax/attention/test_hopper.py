"""The Hopper kernels in interpret mode, races detected and memory poisoned, against the dense float64 reference: values and gradients.

What needs a compiler for the GPU (registers, spills) is in tests/aot_gpu.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic_gpu.interpret.interpret_pallas_call import reset_gpu_interpret_mode_state
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

from neo_jax.attention import hopper
from neo_jax.attention.hopper.common import BLOCKS
from tests.neo_jax.attention.cases import SCALE, arrays, assert_equal, cases, expected, random_intervals, with_intervals

INTERPRET = InterpretGPUParams(detect_races=True, uninitialized_memory="nan")
TOLERANCE = 0.01  # seen: 0.0034 for values, 0.0053 for gradients, of the largest element


@pytest.fixture(autouse=True)
def _fresh_interpreter():
    """A kernel that failed leaves the interpreter in a state in which none runs."""
    reset_gpu_interpret_mode_state()


@functools.partial(jax.jit, static_argnames="blocks")
def hopper_with_gradients(q, k, v, intervals, d_out, d_lse, blocks=BLOCKS):
    out, lse = hopper.forward(q, k, v, intervals, SCALE, blocks, INTERPRET)
    delta = jnp.einsum("blhd,blhd->bhl", out.astype(jnp.float32), d_out.astype(jnp.float32)) - d_lse
    return out, lse, *hopper.backward(q, k, v, intervals, lse, delta, d_out, SCALE, blocks, INTERPRET)


def check(q, k, v, intervals, d_out, d_lse, **options):
    q, k, v, d_out = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v, d_out))
    theirs = expected(*(np.asarray(x, np.float32) for x in (q, k, v)), intervals, np.asarray(d_out, np.float32), d_lse)
    ours = hopper_with_gradients(q, k, v, intervals, d_out, d_lse, **options)
    assert [x.dtype for x in ours] == [jnp.bfloat16, jnp.float32, *[jnp.bfloat16] * 3]
    assert_equal(ours, theirs, TOLERANCE)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-4, err_msg="log-sum-exp")


@cases("rows of every kind", "two key heads in groups of 2", "a part of the queries", "few queries")
def test_equals_the_dense_reference(case):
    check(*arrays(case))


@settings(max_examples=2, deadline=None, phases=[Phase.generate])  # a smaller seed is no simpler case
@given(st.integers(0, 2**31))
def test_random_packings(seed):
    rng = np.random.default_rng(seed)
    check(*with_intervals(np.stack([random_intervals(200, rng) for _ in range(2)]), query_heads=1, key_heads=1, seed=seed))


@pytest.mark.nightly
def test_other_tiles():
    attend = random_intervals(300, np.random.default_rng(1))[None]
    blocks = hopper.Blocks(forward_keys=64, forward_stages=3, dq_keys=128, dq_key_stages=2, dkv_queries=128, dkv_stages=2)
    check(*with_intervals(attend, query_heads=2, key_heads=1), blocks=blocks)


def test_fewer_keys_than_a_tile():
    check(*with_intervals(random_intervals(40, np.random.default_rng(2))[None], query_heads=1, key_heads=1))


def test_untouched_tiles_are_never_read():
    """Keys outside every interval may hold anything, NaN included, when their whole tile is untouched; their gradients are 0."""
    attend = np.broadcast_to(np.array([96, 192], np.int32), (1, 384, 2))
    q, k, v, intervals, d_out, d_lse = with_intervals(attend, query_heads=1, key_heads=1)
    untouched = np.r_[0:64, 192:384]
    poisoned_k, poisoned_v = k.copy(), v.copy()
    poisoned_k[:, untouched], poisoned_v[:, untouched] = np.nan, np.nan
    halves = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v, poisoned_k, poisoned_v, d_out)]
    clean = hopper_with_gradients(*halves[:3], intervals, halves[5], d_lse)
    poisoned = hopper_with_gradients(halves[0], *halves[3:5], intervals, halves[5], d_lse)
    for ours, theirs in zip(poisoned, clean, strict=True):
        np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(theirs, np.float32))
    for dx in poisoned[3:]:
        assert not np.asarray(dx, np.float32)[:, untouched].any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"q": (jnp.float32, 4, 256)}, "q is float32"),
        ({"v": (jnp.float16, 2, 128)}, "v is float16"),
        ({"k": (jnp.bfloat16, 2, 128)}, "k is 128 wide"),
        ({"v": (jnp.bfloat16, 2, 256)}, "v is 256 wide"),
        ({"k": (jnp.bfloat16, 3, 256)}, "4 query heads cannot share 3 key heads"),
    ],
)
def test_says_what_it_does_not_support(change, reason):
    arguments = {"q": (jnp.bfloat16, 4, 256), "k": (jnp.bfloat16, 2, 256), "v": (jnp.bfloat16, 2, 128), **change}
    answer = hopper.supports(*(jax.ShapeDtypeStruct((1, 128, heads, width), dtype) for dtype, heads, width in arguments.values()))
    assert (answer is None) if reason is None else answer.startswith(reason)
