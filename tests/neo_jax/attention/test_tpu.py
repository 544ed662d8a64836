"""The TPU kernels, interpreted on CPU with race detection and poisoned memory, against the dense float64 reference, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
from jax.experimental.pallas import tpu as pltpu

from benchmarks.packed_rows import row_kinds
from data_pipelines.batch import Intervals, attended_pairs, map_arrays
from neo_jax.attention import tpu
from neo_jax.attention.api import Kernel, attention_with_lse
from neo_jax.attention.blocks import blocks_for
from neo_jax.attention.intervals import interval_problem
from neo_jax.attention.tpu import Blocks
from tests.neo_jax.attention.cases import NAMED, arrays, assert_equal, cases, computed, expected, random_intervals, rounded, with_intervals
from tests.neo_jax.programs import largest_array

INTERPRET = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")  # what is not written is NaN
SQUARES = Blocks(query=128, key=128, compute=128, square=128)
STRIPS = Blocks(query=256, key=384, compute=128, square=128)  # tiles of 2 x 3 squares, in three chunks


@pytest.fixture(autouse=True)
def no_races():
    """jax 0.12 raises where it finds one, 0.11 prints it and remembers."""
    yield
    assert interpreter.races is None or not interpreter.races.races_found


def kernel(blocks: Blocks) -> Kernel:
    return Kernel("tpu", blocks, INTERPRET)


@cases(*NAMED)
def test_equals_the_dense_reference(case):
    data = arrays(case)
    assert_equal(computed(kernel(STRIPS), *data), expected(*data), 2e-5)


@cases("rows of every kind", "a part of the queries")
def test_tiles_of_one_square_equal_the_dense_reference(case):
    data = arrays(case)
    assert_equal(computed(kernel(SQUARES), *data), expected(*data), 2e-5)


@cases("rows of every kind")
def test_bfloat16_accumulates_in_float32(case):
    data = rounded(*arrays(case))
    assert_equal(computed(kernel(STRIPS), *data, dtype=jnp.bfloat16), expected(*data), 0.02)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_random_packings(seed):
    rng = np.random.default_rng(seed)
    data = with_intervals(np.stack([random_intervals(330, rng) for _ in range(2)]), 2, 1, 128, 128, seed)
    assert_equal(computed(kernel(STRIPS), *data), expected(*data), 2e-5)


def test_narrow_heads():
    data = arrays(NAMED["groups of 1"], 32, 16)
    assert_equal(computed(kernel(SQUARES), *data), expected(*data), 2e-5)


def test_tiles_outside_the_intervals_are_not_computed():
    """Keys that nobody sees may be NaN where a whole tile of them is unseen; their gradients are written nevertheless."""
    attend = np.tile(np.array([[128, 256]], np.int32), (1, 384, 1))
    q, k, v, *rest = with_intervals(attend, 2, 1)
    k[:, :128] = v[:, :128] = k[:, 256:] = v[:, 256:] = np.nan
    results = computed(kernel(SQUARES), q, k, v, *rest)
    assert all(np.isfinite(array).all() for array in results)
    for of_keys in results[3:]:
        assert not of_keys[:, :128].any() and not of_keys[:, 256:].any() and of_keys[:, 128:256].any()


def test_the_grid_is_as_long_as_the_work():
    visited = []

    def record(token, point, _):
        visited.append(point)
        return token

    recording = pltpu.InterpretParams(grid_point_recorder=record)
    eight_documents = np.stack([np.arange(1024) // 128 * 128, np.arange(1024) + 1], -1).astype(np.int32)
    q, k, v, intervals, *_ = with_intervals(eight_documents[None], 2, 1, 128, 128)
    jax.block_until_ready(tpu.forward(q, k, v, intervals, 0.1, SQUARES, recording))
    assert len(visited) == 2 * 8  # heads x tiles on the diagonal


def test_memory_is_linear_in_length():
    def gradient(q, k, v, intervals):
        return jax.grad(lambda *x: attention_with_lse(*x, intervals, 0.1, Kernel("tpu", Blocks()))[0].sum(), argnums=(0, 1, 2))(q, k, v)

    def elements(length):
        heads = [jax.ShapeDtypeStruct((1, length, n, 128), jnp.bfloat16) for n in (2, 1, 1)]
        return largest_array(gradient, *heads, Intervals(*[jax.ShapeDtypeStruct((1, length), jnp.int32)] * 2))

    assert elements(1 << 16) == 2 * elements(1 << 15) == (1 << 16) * 2 * 128


def test_lengths_beyond_the_list_of_tiles_are_refused():
    heads = [jax.ShapeDtypeStruct((1, 1 << 17, 1, 128), jnp.float32)] * 3
    intervals = Intervals(*[jax.ShapeDtypeStruct((1, 1 << 17), jnp.int32)] * 2)
    with pytest.raises(ValueError, match="are more than the list of tiles can hold"):
        jax.eval_shape(lambda *x: tpu.forward(*x, 0.1, SQUARES), *heads, intervals)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"query": 100}, "blocks.query is 100, must be a multiple of 128"),
        ({"compute": 384}, "compute and square must divide key"),
        ({"query": 384}, "square must divide query"),
    ],
)
def test_blocks_that_do_not_fit_together(sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Blocks(**sizes)


@pytest.mark.parametrize(
    ("kind", "most"), [("one long text", 1.05), ("128-frame video", 1.05), ("1K image-text pairs", 1.3), ("mixed", 1.5)]
)
def test_little_is_computed_in_vain_on_v5(kind, most):
    """Pairs computed over pairs attended, rows of 8,192 tokens, default blocks."""
    intervals = map_arrays(lambda x: x[None], row_kinds(8192)[kind])
    blocks = blocks_for("tpu", "TPU v5 lite", (1, 8192, 8, 256), (1, 8192, 8, 128))
    assert interval_problem(intervals, 8192) is None
    assert 1 <= tpu.computed_pairs(intervals, 8192, blocks) / attended_pairs(intervals) <= most


def test_more_tiles_than_an_index_can_name_are_refused():
    """Many short rows: few tiles met by each, but a tile's number no longer fits its bits."""
    rows, keys = 128, 16_385
    q, k, v = (jax.ShapeDtypeStruct((rows, length, 1, 128), jnp.float32) for length in (64, keys, keys))
    intervals = Intervals(*[jax.ShapeDtypeStruct((rows, 64), jnp.int32)] * 2)
    with pytest.raises(ValueError, match="of 16385 are more than the list of tiles can hold"):
        jax.eval_shape(lambda *x: tpu.forward(*x, 0.1, SQUARES), q, k, v, intervals)
