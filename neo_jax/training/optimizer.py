"""The learning rate, and the AdamW update of the parameters that train.

Each parameter has an Adam state of its own, step count included, so that the bias correction of a parameter that is unfrozen late is right.
A frozen parameter has no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax

from neo_jax import config
from neo_jax.model.backbone import Parameters

Moments = dict[str, optax.ScaleByAdamState]  # by parameter name

# Weight decay is chosen by name, not by the number of dimensions: stacked norms have two, like matrices.
DECAYED = ("embedding", "output", "patch", "merge", "q", "k", "v", "o", "q_hw", "k_hw", "gate", "up", "down")


def decayed(names: Iterable[str]) -> list[str]:
    """Returns the names of the parameters with weight decay: matrices, embeddings and convolutions, but not norms and biases."""
    return [name for name in names if name.split(".")[-1] in DECAYED]


def learning_rates(phase: config.Phase) -> np.ndarray:
    """Returns the learning rate of every step, [steps] float32: linear warm-up to the peak, then a cosine to minimum_ratio x peak.

    With decay_ratio below 1 the rate stays at the peak until that share of the steps is left, and the cosine is as long as they are.

    Computed at once and kept on the host: evaluating the schedule at each step would run a small program on the device after the training step
    in progress, and wait for both.
    """
    warmup = round(phase.warmup_ratio * phase.steps)
    decay = min(round(phase.decay_ratio * phase.steps), phase.steps - warmup)
    if decay == phase.steps - warmup:
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, phase.learning_rate, warmup, max(phase.steps, warmup + 1), phase.minimum_ratio * phase.learning_rate
        )
    else:
        rise, hold = optax.linear_schedule(0.0, phase.learning_rate, max(warmup, 1)), optax.constant_schedule(phase.learning_rate)
        fall = optax.cosine_decay_schedule(phase.learning_rate, max(decay, 1), phase.minimum_ratio)
        schedule = optax.join_schedules([rise, hold, fall], [warmup, phase.steps - decay])
    # Counted from 1: the first step has a rate above 0, the last one the minimum.
    return np.asarray(jax.device_get(jax.jit(jax.vmap(schedule))(np.arange(1, phase.steps + 1))), np.float32)


def to_storage(optimizer: config.Optimizer, parameters: Parameters) -> Parameters:
    """Casts parameters to the type in which they are stored between steps."""
    return {name: value.astype(optimizer.parameter_dtype) for name, value in parameters.items()}


def initial_moments(optimizer: config.Optimizer, trainable: Parameters) -> Moments:
    """Returns moments and step counts of zero for each parameter, in their storage type and memory."""
    zeros = (_adam(optimizer).init(value.astype(jnp.float32)) for value in trainable.values())
    return {name: _moments_to_storage(optimizer, moments) for name, moments in zip(trainable, zeros, strict=True)}


@jax.named_scope("optimizer")
def update(
    optimizer: config.Optimizer,
    gradients: Parameters,
    moments: Moments,
    trainable: Parameters,
    rate: jax.Array,
    applies: jax.Array | bool = True,
    factors: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Parameters, Moments, jax.Array]:
    """Takes one AdamW step, with gradients clipped by their global norm.

    Args:
      gradients: float32, by parameter name.
      rate: learning rate of this step; weight decay is multiplied by it (decoupled).
      applies: False leaves parameters and moments unchanged. So does a gradient that is not finite.
      factors: of the rates of some parameters, by name; the others have `rate`.

    Returns:
      New parameters, new moments, and the global norm of the gradients before clipping.
    """
    norm = optax.tree.norm(gradients)
    applies = applies & jnp.isfinite(norm)
    scale = jnp.minimum(1.0, optimizer.clip_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
    decay = set(decayed(trainable))
    new_parameters, new_moments = {}, {}
    for number, (name, old) in enumerate(sorted(trainable.items())):
        value = old.astype(jnp.float32)
        before = _moments_to_compute(optimizer, moments[name])
        step, moment = _adam(optimizer).update(gradients[name] * scale, before)
        if name in decay:
            step = step + optimizer.weight_decay * value
        value = value - (rate * factors[name] if name in factors else rate) * step
        if old.dtype == jnp.bfloat16:
            # The key depends only on step count and parameter: the same bits on every mesh, different ones in each step.
            value = round_stochastically(value, jax.random.fold_in(jax.random.key(number), moment.count))
        new_parameters[name], moment = jax.tree.map(lambda new, old: jnp.where(applies, new, old), (value, moment), (old, before))
        new_moments[name] = _moments_to_storage(optimizer, moment)
    return new_parameters, new_moments, norm


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """Rounds float32 to bfloat16, up or down at random so that the expected value is x. NaN and infinities are kept."""
    noise = jax.random.bits(key, x.shape, jnp.uint16, out_sharding=jax.typeof(x).sharding.spec).astype(jnp.uint32)
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) & jnp.uint32(0xFFFF0000)
    return jnp.where(jnp.isfinite(x), jax.lax.bitcast_convert_type(bits, jnp.float32), x).astype(jnp.bfloat16)


def _adam(optimizer: config.Optimizer) -> optax.GradientTransformation:
    return optax.scale_by_adam(optimizer.beta1, optimizer.beta2, optimizer.epsilon)


def _moments_to_storage(optimizer: config.Optimizer, state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
    """Converts moments to the type and memory in which they are stored between steps."""
    mu, nu = state.mu.astype(optimizer.mu_dtype), state.nu.astype(optimizer.nu_dtype)
    if optimizer.offload:
        mu, nu = (jax.device_put(x, jax.memory.Space.Host) for x in (mu, nu))
    return state._replace(mu=mu, nu=nu)


def _moments_to_compute(optimizer: config.Optimizer, state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
    """Converts moments to float32 in device memory."""
    mu, nu = state.mu, state.nu
    if optimizer.offload:
        mu, nu = (jax.device_put(x, jax.memory.Space.Device) for x in (mu, nu))
    return state._replace(mu=mu.astype(jnp.float32), nu=nu.astype(jnp.float32))
