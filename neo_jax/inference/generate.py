"""Greedy decoding with a cache of keys and values.

Prompts stand at the right end of their rows, so that every row's answer begins at the same cache position and each token still sees one
interval.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.batch import Intervals, ModelInputs
from neo_jax import config
from neo_jax.model.backbone import Backbone, Caches, Parameters, build
from neo_jax.model.computation import Computation
from neo_jax.model.layers import Cache
from neo_jax.sharding import spec

BANNED_SCORE = -1e30  # the logit of a token that may not be chosen


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5, 6))
def greedy(
    model: config.Model,
    computation: Computation,
    parameters: Parameters,
    prompts: ModelInputs,
    max_tokens: int,
    stop: int,
    banned_ids: tuple[int, ...] = (),
) -> jax.Array:
    """The most likely token again and again, until every row has stopped.

    Args:
      prompts: of data_pipelines.loading.prompts.prompt_inputs, on the mesh that is set.
      max_tokens: of an answer.
      stop: the id that ends an answer (kept; what follows it is `stop` again); -1: none.
      banned_ids: ids that are not chosen (image tokens: their embedding needs pixels).

    Returns:
      [B, max_tokens] int32.
    """
    computation = computation.for_decoding()
    dtype = jnp.dtype(computation.compute_dtype)
    backbone = build(model, computation.architecture, parameters)
    b, length = prompts.tokens.shape
    first = prompts.intervals.lo[:, -1]  # lo of the prompt's last token: where the document begins
    caches = empty_caches(backbone, b, length + max_tokens, dtype)
    x, caches = backbone.with_cache(backbone.embed(prompts, dtype), prompts.positions, prompts.intervals, computation, caches, 0)
    token = _choose(backbone, x[:, -1:], banned_ids)
    answer = jnp.full((b, max_tokens), stop, jnp.int32, out_sharding=spec("batch", None)).at[:, 0].set(token)

    def unfinished(state):
        step, _, stopped, _, _ = state
        return (step < max_tokens) & ~stopped.all()

    def next_token(state):
        step, token, stopped, answer, caches = state
        start = length + step - 1  # where this token stands in the cache
        t = prompts.positions[:, -1, 0] + step
        positions = jnp.stack([t, jnp.zeros_like(t), jnp.zeros_like(t)], -1)[:, None]
        intervals = Intervals(first[:, None], jnp.full_like(first, start + 1)[:, None])
        x = backbone.embed_tokens(token[:, None], dtype)
        x, caches = backbone.with_cache(x, positions, intervals, computation, caches, start)
        token = jnp.where(stopped, stop, _choose(backbone, x, banned_ids))
        return step + 1, token, stopped | (token == stop), answer.at[:, step].set(token), caches

    return jax.lax.while_loop(unfinished, next_token, (1, token, token == stop, answer, caches))[3]


def empty_caches(backbone: Backbone, rows: int, length: int, dtype: jnp.dtype) -> Caches:
    """A cache of `length` tokens a row for every stack."""
    model = backbone.model
    width = 2 * model.head_dim if backbone.spatial else model.head_dim
    layers = {"base": model.base_layers, "pre_buffer": model.pre_buffer_layers}

    def zeros(count: int, last: int) -> jax.Array:
        return jnp.zeros((count, rows, length, model.kv_heads, last), dtype, out_sharding=spec(None, "batch", "length", "heads", None))

    return {name: Cache(zeros(layers[name], width), zeros(layers[name], model.head_dim)) for name in backbone.stacks()}


def _choose(backbone: Backbone, x_BLD: jax.Array, banned_ids: tuple[int, ...]) -> jax.Array:
    logits = backbone.logits(x_BLD)[:, 0]
    if banned_ids:
        logits = jnp.where(jnp.isin(jnp.arange(logits.shape[-1]), np.asarray(banned_ids)), BANNED_SCORE, logits)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
