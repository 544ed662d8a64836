"""Useful FLOPs against counts by hand and against the matrix products that the traced step really holds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.batch import Intervals
from neo_jax.model.backbone import abstract
from neo_jax.model.computation import Computation
from neo_jax.model.freezing import split
from neo_jax.sharding import make_mesh, to_devices
from neo_jax.training import flops
from neo_jax.training.step import weighted_losses
from tests.neo_jax.tiny_model import batch, model

MODEL = model(tied=False, pre_buffer_layers=1, base_layers=2)
# By hand, for hidden 32, MLP 48, 4 query and 2 key heads of 8, 96 ids, 16 patch channels.
PROJECTIONS = {"q": 32 * 32, "k": 32 * 16, "v": 32 * 16, "o": 32 * 32}
NEW_PROJECTIONS = {"q_hw": 32 * 32, "k_hw": 32 * 16}
LAYER = sum(PROJECTIONS.values()) + 3 * 32 * 48
NEW = sum(NEW_PROJECTIONS.values())
PATCH, MERGE, OUTPUT = 768 * 16, 4 * 16 * 32, 96 * 32


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


def shapes_of(settings, architecture="neo"):
    return {name: value.shape for name, value in abstract(settings, architecture).items()}


def useful(what, tokens=0, visual=0, pairs=0, settings=MODEL, architecture="neo"):
    return flops.useful(shapes_of(settings, architecture), settings.heads, settings.head_dim, what, flops.RowCounts(tokens, visual, pairs))


def test_dense_parts_by_hand():
    tokens, visual = 100, 30
    assert useful("all", tokens) == 6 * tokens * (3 * (LAYER + NEW) + OUTPUT)
    # Frozen: only the new parts of the base and the pre-buffer have weight gradients.
    trained = LAYER + NEW + 2 * NEW
    assert useful("new", tokens) == 4 * tokens * (3 * (LAYER + NEW) + OUTPUT) + 2 * tokens * trained
    patch = 2 * (4 * visual) * PATCH * 2  # four patches a token; forward and weight, nothing lies below
    assert useful("all", 0, visual) == useful("new", 0, visual) == patch + 6 * visual * MERGE


def test_text_model_by_hand():
    tied = model(tied=True, base_layers=2)
    assert useful("all", 50, settings=tied, architecture="qwen3") == 6 * 50 * (2 * LAYER + OUTPUT)
    pairs = 40  # one width of 8 for queries, keys and values
    assert useful("all", pairs=pairs, settings=tied, architecture="qwen3") == 2 * pairs * (2 * 4) * ((8 + 8) + (3 * 8 + 2 * 8))


def test_attention_by_hand():
    pairs, layers, heads = 40, 3, 4
    forward, backward = 2 * (16 + 8) * pairs, 2 * (3 * 16 + 2 * 8) * pairs
    assert useful("all", pairs=pairs) == useful("new", pairs=pairs) == layers * heads * (forward + backward)


def test_count_leaves_padding_out():
    rows = batch(1)
    # 2 documents: 5 text, 3 x 5, 4 text, 2 x 2, 3 text; 7 text, 1 x 6, 9 text.
    counted = flops.total(np.asarray(flops.count_rows(to_devices(rows))))
    assert counted == (31 + 22, 19 + 6, sum_of_pairs([5, -15, 4, -4, 3]) + sum_of_pairs([7, -6, 9]))


def test_pairs_of_a_long_row_of_images_do_not_overflow():
    """2^20 tokens that see 8,191 keys each: the sum and its last four digits in base 4,096 pass 32 bits."""
    length = 1 << 20
    row = batch(1)
    seen = Intervals(np.zeros((1, length), np.int32), np.full((1, length), 8191, np.int32))
    inputs = row.inputs._replace(intervals=seen, visual_slot=np.zeros((1, length), np.int32))
    counted = flops.total(np.asarray(flops.count_rows(row._replace(inputs=inputs, source=np.zeros((1, length), np.int32)))))
    assert counted == (length, length, 8191 * length)


def sum_of_pairs(pieces):
    """Attended pairs of a document; images are negative."""
    pairs = start = 0
    for piece in pieces:
        size = abs(piece)
        pairs += size * (start + size) if piece < 0 else sum(range(start + 1, start + size + 1))
        start += size
    return pairs


def matrix_flops(jaxpr) -> float:
    """FLOPs of the matrix products outside loops of unknown length (attention), those in scans times their steps."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        elif equation.primitive.name != "while":
            for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(value, "eqns"):
                    total += equation.params.get("length", 1) * matrix_flops(getattr(value, "jaxpr", value))
    return total


@pytest.mark.parametrize("what", ["all", "new"])
def test_equals_the_matrix_products_of_the_traced_gradient(what):
    """Without padding and rematerialisation they are the same number, but for two parts that useful FLOPs leave out."""
    rows = batch(2)
    tokens, visual = rows.targets.size, rows.inputs.visual[..., 0].size

    def loss(trainable, frozen, data):
        return weighted_losses(MODEL, Computation(), 3, trainable | frozen, data).loss

    parameters = {name: jnp.zeros(value.shape, out_sharding=value.sharding) for name, value in abstract(MODEL, "neo").items()}
    traced = jax.make_jaxpr(jax.grad(loss))(*split(parameters, what), to_devices(rows))
    logits_again = 2 * tokens * OUTPUT  # the loss computes a chunk's logits once more in the backward pass
    softmax_gradient = 3 * 2 * tokens * MODEL.heads * MODEL.head_dim  # sum of result x gradient in each layer's attention
    assert matrix_flops(traced.jaxpr) == useful(what, tokens, visual) + logits_again + softmax_gradient


def test_peaks():
    assert flops.peak("cpu") is None
    assert flops.peak("NVIDIA H200") == 989e12
    assert all(value > 1e14 for value in flops.OTHER_PEAKS.values())
