"""FLOPs and bytes of a step counted in its program, against counts by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from configs import neo_ov_2b
from neo_jax.attention.api import Kernel
from neo_jax.attention.tpu import Blocks
from neo_jax.config import Config, Optimizer
from neo_jax.model.backbone import abstract
from neo_jax.model.computation import Computation
from neo_jax.model.freezing import split
from neo_jax.planning.costs import assumed_row, busiest_pairs, executed
from neo_jax.sharding import abstract_batch, make_mesh, spec
from neo_jax.training import flops
from neo_jax.training.optimizer import initial_moments
from neo_jax.training.step import TrainState, make_train_step
from tests.neo_jax.tiny_model import model

PHASES = {phase.name: phase for phase in Config.from_config_dict(neo_ov_2b.get_config()).phases}


def test_a_product_is_divided_over_the_devices_that_share_it():
    """x [8, 64, 32] on data, fsdp and context times w [32, 48], of which fsdp holds parts of 32 and tensor of 48."""
    mesh = make_mesh(data=1, fsdp=2, context=2, tensor=2)

    def on(shape, *axes):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec(*axes)))

    def product(x, w):
        return jnp.einsum("bld,df->blf", x, w, out_sharding=spec("batch", "length", "mlp"))

    with jax.set_mesh(mesh):
        x, w = on((8, 64, 32), "batch", "length", None), on((32, 48), "embed", "mlp")
        forward = executed(jax.make_jaxpr(product)(x, w).jaxpr, dict(mesh.shape), 0)
        both = executed(jax.make_jaxpr(jax.grad(lambda w, x: product(x, w).astype(jnp.float32).sum()))(w, x).jaxpr, dict(mesh.shape), 0)
    assert forward.flops == 2 * 8 * 64 * 32 * 48 / 8
    # x of a device, w gathered along fsdp, the result of a device.
    assert forward.bytes == 2 * (8 * 64 * 32 / 4 + 32 * 48 / 2 + 8 * 64 * 48 / 8)
    assert both.flops == 2 * forward.flops
    # The gradient of w is added up on each device as a whole before it is scattered.
    assert both.bytes - forward.bytes == 2 * (8 * 64 * 32 / 4 + 8 * 64 * 48 / 8 + 32 * 48 / 2)


@pytest.mark.parametrize(
    "axes", [{}, {"fsdp": 8}, {"data": 2, "tensor": 4}, {"fsdp": 2, "context": 4}], ids=lambda axes: "-".join(axes) or "one"
)
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_step_executes_what_it_needs_and_what_it_computes_again(axes, remat):
    """All devices together, full rows: useful FLOPs, the loss's second logits, and with rematerialisation the layers once more."""
    settings = model(heads=8, kv_heads=4, pre_buffer_layers=0, patch_channels=32)
    rows, length, visual = 8, 64, 64
    mesh = make_mesh(**axes) if axes else make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        trainable, frozen = split(abstract(settings, "neo"), "all")
        optimizer = Optimizer()
        state = TrainState(trainable, frozen, jax.eval_shape(lambda x: initial_moments(optimizer, x), trainable))
        batch = abstract_batch(rows, length, visual, 1)
        step = make_train_step(settings, Computation(remat=remat), optimizer, 3)
        jaxpr = step.trace(state, batch, jax.ShapeDtypeStruct((), np.float32)).jaxpr.jaxpr
    pairs = 1000.0
    devices = math.prod(mesh.shape.values())
    one_row = executed(jaxpr, dict(mesh.shape), pairs)
    shapes = {name: x.shape for name, x in state.parameters.items()}
    tokens = rows * length
    needed = flops.useful(shapes, settings.heads, settings.head_dim, "all", flops.RowCounts(tokens, rows * visual, 0))
    vocabulary = math.prod(shapes["embedding"])
    again = 2 * tokens * vocabulary
    layers = [math.prod(shape) for name, shape in shapes.items() if name.startswith("base.") and "norm" not in name]
    if remat == "full":  # but for the last product, whose result no gradient needs
        again += 2 * tokens * (sum(layers) - math.prod(shapes["base.mlp.down"]))
    patch = sum(math.prod(shapes[f"patch_embedding.{name}"]) * uses for name, uses in (("patch", 4 * 2), ("merge", 3)))
    replicated = 2 * rows * visual * patch * (mesh.shape["tensor"] - 1)  # each device along tensor embeds all visual tokens of its rows
    delta = 2 * tokens * settings.base_layers * settings.heads * settings.head_dim  # sum of output x gradient
    assert one_row.products * devices == pytest.approx(needed + again + replicated + delta)
    widths = (2 + 1) * settings.head_dim, (4 * 2 + 3) * settings.head_dim
    of_attention = 2 * settings.base_layers * rows * settings.heads * pairs * ((2 if remat == "full" else 1) * widths[0] + widths[1])
    assert one_row.attention * devices == pytest.approx(of_attention * mesh.shape["context"])  # pairs are those of one shard


def test_the_assumed_row_is_full_and_within_the_phase():
    for phase in PHASES.values():
        for documents in (1, 8, 20):
            row = assumed_row(phase, documents)
            lo, hi = row.intervals
            assert 0 < row.visual <= phase.visual_tokens and len(lo) == phase.context
            assert (np.diff(lo) >= 0).all() and (np.diff(hi) >= 0).all() and (lo < hi).all()
            assert len(np.unique(lo)) == documents
    text = dataclasses.replace(PHASES["mid_16k"], visual_tokens=0, images=0, frames=0)
    row = assumed_row(text, 1)
    assert row.visual == 0 and row.pairs == 16_384 * 16_385 // 2


def test_the_busiest_shard():
    row = assumed_row(PHASES["mid_36k"], 8)
    kernel = Kernel("tpu", Blocks())
    whole, attended = busiest_pairs(row, kernel, 1)
    assert attended == row.pairs <= whole
    for shards in (2, 4):
        computed, attended = busiest_pairs(row, kernel, shards)
        assert row.pairs / shards <= attended <= 1.1 * row.pairs / shards
        assert whole / shards <= computed * 1.001 and computed >= attended
