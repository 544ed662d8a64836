"""The choice of what computes attention, what is refused, rematerialisation, and decoding."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding

from data_pipelines.batch import Intervals
from neo_jax.attention import api, chunked
from neo_jax.attention.api import Kernel, UnsupportedAttentionError, attention_with_lse, cached_attention, choose, interval_attention
from neo_jax.attention.decoding import decode_attention
from neo_jax.attention.intervals import interval_problem
from neo_jax.attention.tpu import Blocks
from neo_jax.config.phase import ATTENTION
from neo_jax.model.backbone import REMATERIALISATION
from neo_jax.sharding import make_mesh, spec
from tests.neo_jax.attention.cases import CASES, NAMED, SCALE, arrays, expected
from tests.neo_jax.programs import equations, largest_array


def shapes(length=256, heads=2, key_heads=1, width=256, value_width=128, dtype=jnp.bfloat16, keys=None):
    of = [(length, heads, width), (keys or length, key_heads, width), (keys or length, key_heads, value_width)]
    return [jax.ShapeDtypeStruct((1, *each), dtype) for each in of]


def on(kind: str, platform: str):
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    return jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=device))


def test_the_configuration_knows_every_implementation():
    assert ("auto", *api.IMPLEMENTATIONS) == ATTENTION


@pytest.mark.parametrize(
    ("kind", "platform", "arrays", "name"),
    [
        ("cpu", "cpu", {}, "chunked"),
        ("TPU v5 lite", "tpu", {}, "tpu"),
        ("TPU7x", "tpu", {"dtype": jnp.float32}, "tpu"),
        ("NVIDIA H200", "cuda", {}, "hopper"),
        ("NVIDIA H200", "cuda", {"dtype": jnp.float32}, "chunked"),
        ("NVIDIA H100 80GB HBM3", "cuda", {"width": 64, "value_width": 32}, "chunked"),
        ("NVIDIA A100-SXM4-80GB", "cuda", {}, "chunked"),
    ],
)
def test_choice(kind, platform, arrays, name):
    with on(kind, platform):
        assert choose(*shapes(**arrays)).name == name


@pytest.mark.parametrize(
    ("kind", "platform", "asked", "arrays", "reason"),
    [
        ("cpu", "cpu", "tpu", {}, "the devices are cpu"),
        ("NVIDIA A100-SXM4-80GB", "cuda", "hopper", {}, "the devices are NVIDIA A100"),
        ("NVIDIA H200", "cuda", "hopper", {"dtype": jnp.float32}, "bfloat16"),
        ("TPU v5", "tpu", "tpu", {"dtype": jnp.float16}, "float16"),
    ],
)
def test_what_cannot_be_used_says_why(kind, platform, asked, arrays, reason):
    with on(kind, platform), pytest.raises(UnsupportedAttentionError, match=f'attention "{asked}" cannot be used here: .*{reason}'):
        choose(*shapes(**arrays), asked)


def test_the_choice_is_logged_once(caplog):
    with caplog.at_level(logging.INFO, "neo_jax.attention"):
        for length in (64, 128, 64):
            choose(*shapes(length, heads=15, key_heads=3))
    assert [record.message for record in caplog.records] == ["attention: chunked (64) on cpu, bfloat16, 15 heads over 3, 256 and 128 wide"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"q": (1, 8, 3, 16)}, "3 query heads are not a multiple of 2 key heads"),
        ({"q": (1, 8, 4, 12)}, "queries are 12 wide, keys 16"),
        ({"v": (1, 7, 2, 8)}, "must have the same keys and heads"),
        ({"q": (2, 8, 4, 16)}, "differ in rows or queries"),
        ({"lo": (1, 9)}, "differ in rows or queries"),
        ({"q": (8, 4, 16)}, "must have 4 axes"),
        ({"k": (1, 0, 2, 16), "v": (1, 0, 2, 8)}, "at least one row, token, head and channel"),
        ({"hi": np.zeros((1, 8), np.int64)}, "must be int32"),
        ({"k": np.zeros((1, 8, 2, 16), np.float16)}, "of one floating type"),
        ({"q": np.zeros((1, 8, 4, 16), np.int32)}, "of one floating type"),
    ],
)
def test_what_does_not_fit_together(change, sentence):
    sizes = {"q": (1, 8, 4, 16), "k": (1, 8, 2, 16), "v": (1, 8, 2, 8), "lo": (1, 8), "hi": (1, 8)} | change
    types = {"lo": np.int32, "hi": np.int32}
    data = [value if isinstance(value, np.ndarray) else np.zeros(value, types.get(name, np.float32)) for name, value in sizes.items()]
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])), pytest.raises(ValueError, match=sentence):
        interval_attention(*data[:3], Intervals(*data[3:]), 1.0)


@pytest.mark.parametrize(
    ("lo", "hi", "sentence"),
    [
        ([0, 0, 2], [1, 2, 2], r"the interval \[2, 2\) of query 2 in row 0 is empty"),
        ([-1, 0, 0], [1, 2, 3], r"the interval \[-1, 1\) of query 0 in row 0 leaves the keys \[0, 3\)"),
        ([0, 0, 0], [1, 2, 4], r"query 2 in row 0 leaves the keys"),
        ([0, 1, 0], [1, 2, 3], r"query 2 in row 0 begins before the one in front of it"),
        ([0, 0, 0], [1, 3, 2], r"query 2 in row 0 ends before the one in front of it"),
    ],
)
def test_debugging_names_a_wrong_interval(lo, hi, sentence):
    mesh = make_mesh(devices=jax.devices()[:1])
    lo, hi = (jax.device_put(np.array([x], np.int32), NamedSharding(mesh, spec("batch", "length"))) for x in (lo, hi))
    x = jax.device_put(np.ones((1, 3, 1, 8), np.float32), NamedSharding(mesh, spec("batch", "length", "heads", None)))
    with jax.set_mesh(mesh), pytest.raises(jax.errors.JaxRuntimeError, match=sentence):
        jax.block_until_ready(jax.jit(lambda *x: interval_attention(*x, 1.0, check=True))(x, x, x, Intervals(lo, hi)))
        jax.effects_barrier()


def test_good_intervals_have_no_problem():
    for case in CASES:
        _, k, _, intervals, *_ = arrays(case, 1, 1)
        assert interval_problem(intervals, k.shape[1]) is None


@pytest.mark.parametrize("kernel", [Kernel("chunked", 64), Kernel("tpu", Blocks())], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize(("policy", "times"), [("full", 2), ("attention", 1), ("dots", 1)])
def test_rematerialisation_that_keeps_attention_computes_it_once(kernel, policy, times):
    """Counted in the program of the gradient: the loops, or kernels, of the forward pass."""
    if kernel.name == "tpu" and jax.__version_info__ < (0, 12):
        pytest.skip("jax 0.11 leaves a kernel that nothing needs to XLA, which removes it: tests/aot_gpu counts them compiled")
    q, k, v = shapes(512, 2, 1, 128, 128)
    interval = jax.ShapeDtypeStruct((1, 512), jnp.int32)

    def loss(q, k, v, intervals):
        def body(q):
            return attention_with_lse(jnp.sin(q), k, v, intervals, SCALE, kernel)[0]

        return jnp.square(jax.checkpoint(body, policy=REMATERIALISATION[policy])(q)).sum()

    calls = equations(jax.grad(loss), q, k, v, Intervals(interval, interval))
    if kernel.name == "tpu":
        forward = [call for call in calls if call.primitive.name == "pallas_call" and "forward" in str(call.params["name"])]
    else:
        scans = [call.params["jaxpr"].eqns for call in calls if call.primitive.name == "scan"]
        forward = [scan for scan in scans if any(inside.primitive.name == "div" for inside in scan)]
    assert len(forward) == times


@pytest.mark.parametrize("case", [NAMED[name] for name in ("a part of the queries", "few queries", "no multiple of a tile")], ids=str)
def test_decoding_equals_the_dense_reference(case, monkeypatch):
    monkeypatch.setattr("neo_jax.attention.decoding.CHUNK", 100)  # the last chunk ends with the cache, and overlaps
    q, k, v, intervals, *_ = data = arrays(case, 32, 16)
    with jax.default_matmul_precision("highest"):
        stacked = (np.stack([np.zeros_like(x), x]) for x in (k, v))
        ours = jax.jit(lambda *x: decode_attention(*x, SCALE))(q, *stacked, 1, intervals)
    np.testing.assert_allclose(ours, expected(*data)[0], atol=2e-5)


def test_decoding_reads_the_filled_part_of_the_cache_only():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, n, 2, 8)).astype(np.float32) for n in (1, 4096, 4096))
    k[:, 1024:] = v[:, 1024:] = np.nan
    intervals = Intervals(np.array([[5], [700]], np.int32), np.array([[1000], [1000]], np.int32))
    assert np.isfinite(decode_attention(q, k[None], v[None], 0, intervals, SCALE)).all()
    cut = [np.asarray(x, np.float32) for x in (q, k[:, :1024], v[:, :1024])]
    np.testing.assert_array_equal(
        decode_attention(q, k[None], v[None], 0, intervals, SCALE),
        decode_attention(cut[0], cut[1][None], cut[2][None], 0, intervals, SCALE),
    )


def test_decoding_copies_no_cache():
    q, k, v = shapes(1, 4, 2, 32, 32, jnp.float32, keys=1 << 16)
    caches = [jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in (k, v)]
    intervals = Intervals(*[jax.ShapeDtypeStruct((1, 1), jnp.int32)] * 2)
    largest = largest_array(lambda *x: decode_attention(*x[:3], 2, *x[3:], SCALE), q, *caches, intervals)
    assert largest <= 1024 * 4 * 32  # of a chunk: its products with each query head


def test_chunks_are_the_only_ones_without_a_limit():
    assert chunked.supports(*shapes(dtype=jnp.float16, width=3)) is None


def test_an_unknown_name_is_refused():
    with pytest.raises(UnsupportedAttentionError, match="no attention 'flash': it must be auto, chunked, tpu, hopper"):
        choose(*shapes(), "flash")


@pytest.mark.parametrize(
    ("queries", "axes", "message"), [(17, {}, "at most 16 queries a row, these are 17"), (1, {"context": 8}, "context 1, not 8")]
)
def test_what_a_cache_cannot_be_read_by_is_refused(queries, axes, message):
    q, k, v = shapes(queries, 4, 2, 8, 8, jnp.float32, keys=64)
    caches = [jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in (k, v)]
    intervals = Intervals(*[jax.ShapeDtypeStruct(q.shape[:2], jnp.int32)] * 2)
    mesh = make_mesh(**axes) if axes else make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), pytest.raises(UnsupportedAttentionError, match=message):
        jax.eval_shape(lambda q, k, v, intervals: cached_attention(q, k, v, 1, intervals, 1.0), q, *caches, intervals)


def test_a_problem_in_a_shard_is_named_by_its_place_in_the_whole():
    lo, hi = np.array([[0, 0], [0, 1]], np.int32), np.array([[1, 2], [1, 1]], np.int32)
    assert "of query 201 in row 9 is empty" in interval_problem(Intervals(lo, hi), 4, first_row=8, first_query=200)
