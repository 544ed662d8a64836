"""The training step and the held-out loss: pure functions of state and batch, jitted once per phase.

The arrays of a batch have a leading axis for gradient accumulation: [accumulate, rows, ...].
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from data_pipelines.batch import Batch
from neo_jax import config
from neo_jax.model.backbone import Parameters, build
from neo_jax.model.computation import Computation
from neo_jax.training.loss import token_losses
from neo_jax.training.optimizer import Moments, update
from neo_jax.training.qk_clip import clip_qk
from neo_jax.training.rates import Factors, rate_factors


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of training: what a step updates, and the frozen parameters.

    Attributes:
      trainable: parameters that this phase trains.
      frozen: the other parameters, without gradient and optimizer state.
      moments: Adam state of each trainable parameter.
      average: moving average of each trainable parameter, float32; empty without optimizer.average.
    """

    trainable: Parameters
    frozen: Parameters
    moments: Moments
    average: Parameters = dataclasses.field(default_factory=dict)

    @property
    def parameters(self) -> Parameters:
        return self.trainable | self.frozen

    def averaged_trainable(self) -> Parameters:
        """Returns the averages of the parameters that train, in the parameters' types."""
        return {name: value.astype(self.trainable[name].dtype) for name, value in self.average.items()}


class LossSums(NamedTuple):
    """Sums over the rows of a batch, float32. The loss of the batch is loss / weight.

    Attributes:
      loss: weighted cross-entropy summed over all labels, in nats; a scalar.
      weight: sum of the weights of all labels; a scalar.
      source_loss, source_weight: the same sums for each source, [sources].
    """

    loss: jax.Array
    weight: jax.Array
    source_loss: jax.Array
    source_weight: jax.Array


class StepMetrics(NamedTuple):
    """The metrics of a training step; arrays on the devices until they are fetched.

    Attributes:
      loss: weighted mean cross-entropy over the labels of the global batch, in nats.
      gradient_norm: global norm of the gradients before clipping.
      parameter_norm: global norm of the trained parameters after the update; not finite if any of them is not.
      applied: False if parameters and moments were left as they were: the loss or the gradient is not finite, or the loss is above the limit.
      weight: sum of the weights of all labels.
      source_loss, source_weight: as in LossSums.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    parameter_norm: jax.Array
    applied: jax.Array
    weight: jax.Array
    source_loss: jax.Array
    source_weight: jax.Array

    def by_source(self, names: Sequence[str]) -> dict[str, float]:
        """Returns the loss, in nats, of each source that has labels in the step; the metrics must have been fetched."""
        return self.by_task({name: name for name in names})

    def by_task(self, tasks: Mapping[str, str]) -> dict[str, float]:
        """Returns the loss, in nats, over all sources of each task that has labels in the step; the metrics must have been fetched.

        Args:
          tasks: task of each source, by its name, in the order in which batches number the sources; "": none.
        """
        sums: dict[str, tuple[float, float]] = {}
        for task, loss, weight in zip(tasks.values(), self.source_loss, self.source_weight, strict=True):
            before = sums.get(task, (0.0, 0.0))
            sums[task] = (before[0] + float(loss), before[1] + float(weight))
        return {task: loss / weight for task, (loss, weight) in sums.items() if task and weight > 0}


def weighted_losses(
    model: config.Model, computation: Computation, sources: int, parameters: Parameters, batch: Batch, z_loss: float = 0.0
) -> LossSums:
    """Returns the loss sums of a batch without accumulation axis (arrays [B, L]). z_loss: as for token_losses."""
    backbone = build(model, computation.architecture, parameters)
    x = backbone(batch.inputs, computation)
    hidden = backbone.apply_final_norm(x)
    with jax.named_scope("loss"):
        losses = token_losses(hidden, backbone.output_matrix(), batch.targets, z_loss=z_loss)
    weights = batch.loss_weights
    weighted = losses * weights
    source_masks = [batch.source == source for source in range(sources)]
    return LossSums(
        weighted.sum(),
        weights.sum(),
        jnp.stack([jnp.where(mask, weighted, 0).sum() for mask in source_masks]),
        jnp.stack([jnp.where(mask, weights, 0).sum() for mask in source_masks]),
    )


@functools.cache
def make_train_step(
    model: config.Model, computation: Computation, optimizer: config.Optimizer, sources: int, factors: Factors = ()
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Returns the jitted step: (state, batch, learning rate, loss limit) -> (state, metrics). The given state is donated.

    The loss is the weighted sum over the whole global batch, all accumulation passes included, divided by the sum of its weights.
    `factors` multiply the learning rates of parameters (rates.rate_factors). A batch without labels leaves the state unchanged, and so does one whose
    loss or gradient is not finite or whose loss is above the limit, infinite unless given. Phases with the same computation, factors and shapes
    share one compiled program.
    """

    def loss(trainable, frozen, batch):
        sums = weighted_losses(model, computation, sources, trainable | frozen, batch, optimizer.z_loss)
        return sums.loss, sums

    def step(state: TrainState, batch: Batch, rate: jax.Array, loss_limit: jax.Array | float = math.inf):
        def accumulate(carry, rows):
            gradients, sums = jax.grad(loss, has_aux=True)(state.trainable, state.frozen, rows)
            return jax.tree.map(jnp.add, carry, (gradients, sums)), None

        first_pass = jax.tree.map(lambda x: x[0], batch)
        shapes = jax.eval_shape(jax.grad(loss, has_aux=True), state.trainable, state.frozen, first_pass)
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32, out_sharding=x.sharding.spec), shapes)
        (gradients, sums), _ = jax.lax.scan(accumulate, start, batch)
        labelled = sums.weight > 0
        weight = jnp.where(labelled, sums.weight, 1.0)
        gradients = jax.tree.map(lambda gradient: gradient / weight, gradients)
        mean = sums.loss / weight
        usable = jnp.isfinite(mean) & (mean <= loss_limit)
        # A step without a label (all its samples failed) changes nothing: no weight decay, no update of the moments. Nor does a bad one.
        trainable, moments, norm = update(optimizer, gradients, state.moments, state.trainable, rate, labelled & usable, dict(factors))
        if optimizer.qk_clip:
            trainable = clip_qk(trainable, state.frozen, optimizer.qk_clip)
        applied = usable & jnp.isfinite(norm)
        weight_of_old = jnp.where(labelled & applied, optimizer.average, 1.0)
        average = {name: weight_of_old * old + (1 - weight_of_old) * trainable[name] for name, old in state.average.items()}
        metrics = StepMetrics(mean, norm, optax.tree.norm(trainable), applied, sums.weight, sums.source_loss, sums.source_weight)
        return TrainState(trainable, state.frozen, moments, average), metrics

    return jax.jit(step, donate_argnums=0)


def train_step_of(settings: config.Config, phase: config.Phase, trainable: Iterable[str]) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Returns make_train_step of a phase. trainable: names of the parameters that it trains."""
    computation, factors = Computation.of(phase, settings.run.debug), rate_factors(phase, trainable)
    return make_train_step(settings.model, computation, settings.optimizer, len(settings.data.sources), factors)


@functools.cache
def make_heldout_step(model: config.Model, computation: Computation, sources: int) -> Callable[[Parameters, Batch], LossSums]:
    """Returns the jitted `weighted_losses` of a batch whose accumulation axis has size one: (parameters, batch) -> sums."""

    def sums(parameters: Parameters, batch: Batch):
        return weighted_losses(model, computation, sources, parameters, jax.tree.map(lambda x: x[0], batch))

    return jax.jit(sums)
