"""What trains, and AdamW over it, parameter by parameter.

Each parameter has an Adam state of its own, step count included: one that is unfrozen late starts with its own bias correction.
A parameter that does not train has no state at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import optax

from neo_jax import config
from neo_jax.model.backbone import Parameters

Moments = dict[str, optax.ScaleByAdamState]  # by parameter name

NEW_ATTENTION = ("q_hw", "k_hw", "q_norm_h", "q_norm_w", "k_norm_h", "k_norm_w")  # what NEO adds to each layer of its base

# Weight decay is chosen by name: stacked norms have two dimensions and would pass for matrices.
DECAYED = ("embedding", "output", "patch", "merge", "q", "k", "v", "o", "q_hw", "k_hw", "gate", "up", "down")


def trains(name: str, what: str) -> bool:
    """Whether a parameter trains in a phase with this `trains` setting ("all", or "new": what NEO adds to its base model)."""
    if what == "all":
        return True
    return name.startswith(("patch_embedding.", "pre_buffer.")) or name.split(".")[-1] in NEW_ATTENTION


def split[Leaf](parameters: Mapping[str, Leaf], what: str) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """(trainable, frozen) parameters of a phase."""
    trainable = {name: value for name, value in parameters.items() if trains(name, what)}
    return trainable, {name: value for name, value in parameters.items() if name not in trainable}


def decayed(names: Iterable[str]) -> list[str]:
    """The names that weight decay applies to: matrices, embeddings and convolutions; no norm, no bias."""
    return [name for name in names if name.split(".")[-1] in DECAYED]


def learning_rate(phase: config.Phase) -> optax.Schedule:
    """Linear warm-up to the peak, then a cosine to minimum_ratio x peak at the last step. A function of the step within the phase."""
    warmup = round(phase.warmup_ratio * phase.steps)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, phase.learning_rate, warmup, max(phase.steps, warmup + 1), phase.minimum_ratio * phase.learning_rate
    )
    return lambda step: schedule(step + 1)  # the first step moves, the last one is at the minimum


def _adam(optimizer: config.Optimizer) -> optax.GradientTransformation:
    return optax.scale_by_adam(optimizer.beta1, optimizer.beta2, optimizer.epsilon)


def initial_moments(optimizer: config.Optimizer, trainable: Parameters) -> Moments:
    """Zero moments and counts."""
    return {name: _adam(optimizer).init(value) for name, value in trainable.items()}


def update(
    optimizer: config.Optimizer, gradients: Parameters, moments: Moments, trainable: Parameters, rate: jax.Array
) -> tuple[Parameters, Moments, jax.Array]:
    """One AdamW step with clipping by the global norm.

    Args:
      rate: this step's learning rate; weight decay is multiplied by it (decoupled).

    Returns:
      New parameters, new moments, and the gradients' global norm before clipping.
    """
    norm = optax.tree.norm(gradients)
    scale = jnp.minimum(1.0, optimizer.clip_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
    decay = set(decayed(trainable))
    new_parameters, new_moments = {}, {}
    for name, value in trainable.items():
        step, new_moments[name] = _adam(optimizer).update(gradients[name] * scale, moments[name])
        if name in decay:
            step = step + optimizer.weight_decay * value
        new_parameters[name] = value - rate * step
    return new_parameters, new_moments, norm
