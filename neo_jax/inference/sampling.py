"""How the next token is chosen from its logits: greedy, or sampled with temperature, top-k, top-p and a penalty on repetition."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from neo_jax.sharding import spec

MOST_TOP_K = 2**31 - 1
BANNED_SCORE = -1e30  # the logit of a token that may not be chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of one answer are chosen, in the order of transformers: penalty, temperature, top-k, top-p.

    Attributes:
      temperature: divides the logits; 0: the most likely token is taken.
      top_k: only so many of the most likely tokens may be drawn; 0: all.
      top_p: only the most likely tokens whose probabilities sum to this may be drawn, at least one; 1: all.
      repetition_penalty: divides the positive logits of tokens that the prompt or the answer has, and multiplies the negative ones; 1: none.
      seed: of the draws. An answer depends on its own seed only, not on the prompts beside it.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        if not 0 <= self.temperature < float("inf"):
            yield "temperature", f"is {self.temperature}, must be a number of at least 0"
        if not 0 <= self.top_k <= MOST_TOP_K:
            yield "top_k", f"is {self.top_k}, must be at least 0 and at most {MOST_TOP_K:,}"
        if not 0 < self.top_p <= 1:
            yield "top_p", f"is {self.top_p}, must be above 0 and at most 1"
        if not 0 < self.repetition_penalty < float("inf"):
            yield "repetition_penalty", f"is {self.repetition_penalty}, must be a number above 0"


GREEDY = Sampling()


class RowSampling(NamedTuple):
    """The settings of each row of a batch: float32 and int32 arrays [B], fields as in Sampling."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    repetition_penalty: jax.Array
    seed: jax.Array


def of_rows(samplings: Sequence[Sampling]) -> RowSampling:
    """Returns the settings of rows as numpy arrays. Seeds are taken modulo 2^31."""
    kinds = {"top_k": np.int32, "seed": np.int32}
    columns = {
        name: np.array(
            [getattr(each, name) % 2**31 if name == "seed" else getattr(each, name) for each in samplings], kinds.get(name, np.float32)
        )
        for name in RowSampling._fields
    }
    return RowSampling(**columns)  # type: ignore[arg-type]


def seen_tokens(tokens: jax.Array, valid: jax.Array, vocabulary: int) -> jax.Array:
    """Returns which ids each row of tokens [B, L] has where `valid`, [B, vocabulary] bool."""

    def local(tokens, valid):
        rows = jnp.arange(tokens.shape[0])[:, None]
        return jnp.zeros((tokens.shape[0], vocabulary), bool).at[rows, tokens].max(valid)

    rows = spec("batch", None)
    whole = (jax.sharding.reshard(x, rows) for x in (tokens, valid))
    return jax.shard_map(local, in_specs=(rows, rows), out_specs=rows, check_vma=False)(*whole)


def choose_tokens(logits: jax.Array, sampling: RowSampling, seen: jax.Array, number: jax.Array, banned_ids: tuple[int, ...]) -> jax.Array:
    """Returns the next token of each row, [B] int32.

    Args:
      logits: [B, vocabulary] float32.
      seen: [B, vocabulary]: ids of the prompt and the answer so far.
      number: place of the token in its answer, from 0.
      banned_ids: ids that are never chosen.
    """

    def local(logits, sampling, seen, number):
        if banned_ids:
            logits = jnp.where(jnp.isin(jnp.arange(logits.shape[-1]), np.asarray(banned_ids)), BANNED_SCORE, logits)
        penalty = sampling.repetition_penalty[:, None]
        logits = jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
        greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        drawn = jax.lax.cond((sampling.temperature > 0).any(), _drawn, lambda *_: greedy, logits, sampling, number)
        return jnp.where(sampling.temperature > 0, drawn, greedy)

    rows, of_row = spec("batch", None), spec("batch")
    of_rows = [of_row] * len(RowSampling._fields)
    in_specs: Any = (rows, RowSampling._make(of_rows), rows, spec())
    logits, seen = (jax.sharding.reshard(x, rows) for x in (logits, seen))
    return jax.shard_map(local, in_specs=in_specs, out_specs=of_row, check_vma=False)(logits, sampling, seen, number)


def _drawn(logits: jax.Array, sampling: RowSampling, number: jax.Array) -> jax.Array:
    """Draws a token of each row; what is drawn where the temperature is 0 has no meaning."""
    logits = logits / jnp.maximum(sampling.temperature, jnp.finfo(jnp.float32).tiny)[:, None]
    ordered = -jnp.sort(-logits, axis=-1)
    rank = jnp.arange(logits.shape[-1])
    kept = rank < jnp.where(sampling.top_k > 0, sampling.top_k, logits.shape[-1])[:, None]
    probabilities = jax.nn.softmax(jnp.where(kept, ordered, -jnp.inf), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept &= (before < sampling.top_p[:, None]) | (rank == 0)
    least = jnp.where(kept, ordered, jnp.inf).min(axis=-1, keepdims=True)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), number))(sampling.seed)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:]))(keys)
    return jnp.argmax(jnp.where(logits >= least, logits, -jnp.inf) + noise, axis=-1).astype(jnp.int32)
