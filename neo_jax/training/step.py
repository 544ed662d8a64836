"""The training step and the held-out loss: pure functions of (state, batch), jitted once a phase.

A batch holds the arrays of data_pipelines.loading.shards.shard_fields with an axis in front for gradient accumulation: [accumulate, rows, ...].
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from neo_jax import config
from neo_jax.model.backbone import Parameters, build
from neo_jax.training.loss import token_losses
from neo_jax.training.optimizer import Moments, update

Batch = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes, and the frozen parameters beside it.

    Attributes:
      trainable: parameters that this phase trains.
      frozen: the others: no gradient, no optimizer state.
      moments: Adam's state of each trainable parameter.
    """

    trainable: Parameters
    frozen: Parameters
    moments: Moments

    @property
    def parameters(self) -> Parameters:
        return self.trainable | self.frozen


@dataclasses.dataclass(frozen=True)
class Computation:
    """What of a phase decides the program of its step."""

    architecture: str
    compute_dtype: str
    remat: str
    attention: str = "auto"

    @classmethod
    def of(cls, phase: config.Phase) -> Computation:
        return cls(phase.architecture, phase.compute_dtype, phase.remat, phase.attention)


def weighted_losses(
    model: config.Model, computation: Computation, sources: int, parameters: Parameters, batch: Batch
) -> dict[str, jax.Array]:
    """Sums over one batch of rows ([B, L] arrays, no accumulation axis): the loss is `loss` / `weight`.

    Returns:
      loss, weight: weighted cross-entropy and weights, scalars; source_loss, source_weight: the same for each source, [sources].
    """
    backbone = build(model, computation.architecture, parameters)
    x = backbone.embed(batch, jnp.dtype(computation.compute_dtype))
    x, _, _ = backbone.decode(
        x, batch["positions"], batch["attend"], computation.remat, attention=computation.attention, pieces=batch.get("pieces")
    )
    losses = token_losses(backbone.normed(x), backbone.output_matrix(), batch["targets"])
    weighted, weights = losses * batch["loss_weights"], batch["loss_weights"]
    of_source = [batch["source"] == source for source in range(sources)]
    return {
        "loss": weighted.sum(),
        "weight": weights.sum(),
        "source_loss": jnp.stack([jnp.where(mine, weighted, 0).sum() for mine in of_source]),
        "source_weight": jnp.stack([jnp.where(mine, weights, 0).sum() for mine in of_source]),
    }


@functools.cache
def make_train_step(
    model: config.Model, computation: Computation, optimizer: config.Optimizer, sources: int
) -> Callable[[TrainState, Batch, np.float32], tuple[TrainState, dict[str, Any]]]:
    """The jitted step: (state, batch, learning rate) -> (state, metrics). The given state is consumed.

    The loss is the weighted sum over the whole global batch, accumulation included, divided by the sum of all its weights.
    A batch without any label leaves the state as it is. Metrics: loss, gradient_norm, weight (of all labels), source_loss and source_weight
    [sources] (sums). Phases of the same computation and shapes share one program.
    """

    def loss(trainable, frozen, batch):
        sums = weighted_losses(model, computation, sources, trainable | frozen, batch)
        return sums["loss"], sums

    def step(state: TrainState, batch: Batch, rate: jax.Array):
        def accumulate(carry, rows):
            gradients, sums = jax.grad(loss, has_aux=True)(state.trainable, state.frozen, rows)
            return jax.tree.map(jnp.add, carry, (gradients, sums)), None

        one = jax.tree.map(lambda x: x[0], batch)
        shapes = jax.eval_shape(jax.grad(loss, has_aux=True), state.trainable, state.frozen, one)
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32, out_sharding=x.sharding.spec), shapes)
        (gradients, sums), _ = jax.lax.scan(accumulate, start, batch)
        labelled = sums["weight"] > 0
        weight = jnp.where(labelled, sums["weight"], 1.0)
        gradients = jax.tree.map(lambda gradient: gradient / weight, gradients)
        # A step without a label, all its samples having failed, changes nothing: no decay, no momentum.
        trainable, moments, norm = update(optimizer, gradients, state.moments, state.trainable, rate, labelled)
        metrics = {"loss": sums["loss"] / weight, "gradient_norm": norm, "weight": sums["weight"]}
        metrics |= {name: sums[name] for name in ("source_loss", "source_weight")}
        return TrainState(trainable, state.frozen, moments), metrics

    return jax.jit(step, donate_argnums=0)


@functools.cache
def make_heldout_step(model: config.Model, computation: Computation, sources: int) -> Callable[[Parameters, Batch], dict[str, jax.Array]]:
    """The jitted sums of `weighted_losses` for a batch with an accumulation axis of one."""

    def sums(parameters: Parameters, batch: Batch):
        return weighted_losses(model, computation, sources, parameters, jax.tree.map(lambda x: x[0], batch))

    return jax.jit(sums)
