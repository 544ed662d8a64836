"""Greedy decoding with a cache of keys and values.

Prompts stand at the right end of their rows, so that every row's answer begins at the same cache position and each token still sees one
interval.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.loading import rows
from data_pipelines.schema import VISUAL_TOKEN_BYTES, Document
from neo_jax import config
from neo_jax.model.backbone import STACKS, Backbone, Parameters, build
from neo_jax.sharding import spec

NEVER = -1e30  # the score of a token that may not be chosen


def prompt_batch(documents: Sequence[Document], length: int, visual_tokens: int, image_token: int) -> dict[str, np.ndarray]:
    """Right-aligned prompts as a batch for `greedy`: those arrays of schema.batch_fields that have no label in them.

    Args:
      documents: one prompt a row, each at most `length` tokens and `visual_tokens` visual tokens.
      length: tokens of a row.
      visual_tokens: visual tokens of a row.
      image_token: id of `<IMG_CONTEXT>`.
    """
    count = len(documents)
    own = np.arange(length, dtype=np.int32)
    batch = {
        "tokens": np.zeros((count, length), np.int32),
        "positions": np.zeros((count, length, 3), np.int32),
        "attend": np.repeat(np.stack([own, own + 1], -1)[None], count, 0),  # padding sees itself
        "visual_slot": np.full((count, length), -1, np.int32),
        "visual": np.zeros((count, visual_tokens, VISUAL_TOKEN_BYTES), documents[0].visual.dtype),
        "visual_position": np.zeros((count, visual_tokens, 2), np.int32),
    }
    for row, document in enumerate(documents):
        n, v = len(document.tokens), len(document.visual)
        if n > length or v > visual_tokens:
            raise ValueError(f"prompt {row} has {n} tokens and {v} visual tokens, the batch holds {length} and {visual_tokens}")
        layout = rows.layout(document.tokens, document.grids, image_token)
        batch["tokens"][row, length - n :] = document.tokens
        batch["positions"][row, length - n :] = layout.positions
        batch["attend"][row, length - n :] = layout.attend + (length - n)
        batch["visual_slot"][row, length - n :] = layout.visual_slot
        batch["visual"][row, :v] = document.visual
        batch["visual_position"][row, :v] = layout.visual_position
    return batch


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5, 6, 7))
def greedy(
    model: config.Model,
    architecture: str,
    parameters: Parameters,
    batch: dict[str, jax.Array],
    answer_tokens: int,
    stop: int,
    never: tuple[int, ...] = (),
    dtype: str = "float32",
) -> jax.Array:
    """The most likely token again and again, until every row has stopped.

    Args:
      batch: of `prompt_batch`.
      answer_tokens: most tokens of an answer.
      stop: the id that ends an answer (kept; what follows it is `stop` again); -1: none.
      never: ids that are not chosen (image tokens: their embedding needs pixels).
      dtype: compute type.

    Returns:
      [B, answer_tokens] int32.
    """
    backbone = build(model, architecture, parameters)
    b, length = batch["tokens"].shape
    first = batch["attend"][:, -1, 0]  # lo of the prompt's last token: where the document begins
    caches = {name: _empty_cache(backbone, name, b, length + answer_tokens, dtype) for name in STACKS if hasattr(backbone, name)}
    x, caches, _ = backbone.decode(backbone.embed(batch, jnp.dtype(dtype)), batch["positions"], batch["attend"], caches=caches)
    token = _choose(backbone, x[:, -1:], never)
    answer = jnp.full((b, answer_tokens), stop, jnp.int32, out_sharding=spec("batch", None)).at[:, 0].set(token)

    def unfinished(state):
        step, _, stopped, _, _ = state
        return (step < answer_tokens) & ~stopped.all()

    def next_token(state):
        step, token, stopped, answer, caches = state
        at = length + step - 1  # where this token stands in the cache
        t = batch["positions"][:, -1, 0] + step
        positions = jnp.stack([t, jnp.zeros_like(t), jnp.zeros_like(t)], -1)[:, None]
        attend = jnp.stack([first, jnp.full_like(first, at + 1)], -1)[:, None]
        x = backbone.words(token[:, None], jnp.dtype(dtype))
        x, caches, _ = backbone.decode(x, positions, attend, caches=caches, start=at)
        token = jnp.where(stopped, stop, _choose(backbone, x, never))
        return step + 1, token, stopped | (token == stop), answer.at[:, step].set(token), caches

    return jax.lax.while_loop(unfinished, next_token, (1, token, token == stop, answer, caches))[3]


def _empty_cache(backbone: Backbone, stack: str, rows: int, length: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    model = backbone.model
    layers = model.base_layers if stack == "base" else model.pre_buffer_layers
    width = 2 * model.head_dim if backbone.spatial else model.head_dim

    def zeros(last):
        return jnp.zeros((layers, rows, length, model.kv_heads, last), dtype, out_sharding=spec(None, "batch", "length", "heads", None))

    return zeros(width), zeros(model.head_dim)


def _choose(backbone: Backbone, x: jax.Array, never: tuple[int, ...]) -> jax.Array:
    logits = backbone.logits(x)[:, 0]
    if never:
        logits = jnp.where(jnp.isin(jnp.arange(logits.shape[-1]), np.asarray(never)), NEVER, logits)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
