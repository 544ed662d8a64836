"""Greedy decoding with a cache of keys and values.

Prompts are padded on the left, so that all answers begin at the same cache position and the keys that a token attends to are one interval.
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
    """Decodes greedily until every row has produced `stop` or `max_tokens` tokens.

    Args:
      prompts: from data_pipelines.loading.prompts.prompt_inputs, on the current mesh.
      max_tokens: most tokens of an answer.
      stop: id of the token that ends an answer; it is kept, and the rest of the row is filled with it. -1: answers have `max_tokens` tokens.
      banned_ids: ids that are never chosen, such as image tokens, whose embedding needs pixels.

    Returns:
      [B, max_tokens] int32.
    """
    computation = computation.for_decoding()
    dtype = jnp.dtype(computation.compute_dtype)
    backbone = build(model, computation.architecture, parameters)
    b, length = prompts.tokens.shape
    first_key = prompts.intervals.lo[:, -1]  # lo of the prompt's last token: where the document begins
    caches = empty_caches(backbone, b, length + max_tokens, dtype)
    x, caches = backbone.with_cache(backbone.embed(prompts, dtype), prompts.positions, prompts.intervals, computation, caches, 0)
    token = _most_likely(backbone, x[:, -1:], banned_ids)
    answer = jnp.full((b, max_tokens), stop, jnp.int32, out_sharding=spec("batch", None)).at[:, 0].set(token)

    def unfinished(state):
        step, _, stopped, _, _ = state
        return (step < max_tokens) & ~stopped.all()

    def next_token(state):
        step, token, stopped, answer, caches = state
        start = length + step - 1  # cache position of this token
        t = prompts.positions[:, -1, 0] + step
        positions = jnp.stack([t, jnp.zeros_like(t), jnp.zeros_like(t)], -1)[:, None]
        intervals = Intervals(first_key[:, None], jnp.full_like(first_key, start + 1)[:, None])
        x = backbone.embed_tokens(token[:, None], dtype)
        x, caches = backbone.with_cache(x, positions, intervals, computation, caches, start)
        token = jnp.where(stopped, stop, _most_likely(backbone, x, banned_ids))
        return step + 1, token, stopped | (token == stop), answer.at[:, step].set(token), caches

    return jax.lax.while_loop(unfinished, next_token, (1, token, token == stop, answer, caches))[3]


def empty_caches(backbone: Backbone, rows: int, length: int, dtype: jnp.dtype) -> Caches:
    """Returns zero-filled caches of `length` tokens a row, by stack."""
    model = backbone.model
    key_width = 2 * model.head_dim if backbone.spatial else model.head_dim
    layers = {"base": model.base_layers, "pre_buffer": model.pre_buffer_layers}

    def zeros(depth: int, width: int) -> jax.Array:
        return jnp.zeros((depth, rows, length, model.kv_heads, width), dtype, out_sharding=spec(None, "batch", "length", "heads", None))

    return {name: Cache(zeros(layers[name], key_width), zeros(layers[name], model.head_dim)) for name in backbone.stacks()}


def _most_likely(backbone: Backbone, x_BLD: jax.Array, banned_ids: tuple[int, ...]) -> jax.Array:
    """Returns the ids [B] int32 of the most likely tokens after hidden states [B, 1, D]."""
    logits = backbone.logits(x_BLD)[:, 0]
    if banned_ids:
        logits = jnp.where(jnp.isin(jnp.arange(logits.shape[-1]), np.asarray(banned_ids)), BANNED_SCORE, logits)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
