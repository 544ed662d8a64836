"""Decoding with a cache of keys and values: one program reads the prompts, another writes tokens.

Prompts are padded on the left, so that all answers begin at the same cache position and the keys that a token attends to are one interval.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.batch import Intervals, ModelInputs
from neo_jax import config
from neo_jax.inference.sampling import GREEDY, RowSampling, Sampling, choose_tokens, of_rows, seen_tokens
from neo_jax.model.backbone import Caches, Parameters, build
from neo_jax.model.computation import Computation
from neo_jax.sharding import spec

CHUNK = 32  # most tokens of a row that one call of `decode` writes


@dataclasses.dataclass(frozen=True)
class Program:
    """What the programs of decoding depend on besides shapes. A static argument of jitted functions.

    Attributes:
      model: the model's shape.
      computation: settings of the forward pass.
      stop_ids: a row ends with the first of these.
      banned_ids: ids that are never chosen, such as image tokens, whose embedding needs pixels.
    """

    model: config.Model
    computation: Computation
    stop_ids: tuple[int, ...] = ()
    banned_ids: tuple[int, ...] = ()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """Answers in progress. `token` is the last one that was chosen; its keys and values are not in the caches yet.

    Attributes:
      caches: keys and values of the prompts and of the answers but for `token`.
      token: [B] int32.
      t: [B] int32: temporal position of `token`.
      first_key: [B] int32: cache position at which the row's document begins.
      start: scalar int32: cache position of `token`.
      number: scalar int32: place of the next token in its answer, from 0.
      stopped: [B] bool: whether the answer has ended.
      seen: [B, vocabulary] bool: ids of the prompt and the answer.
      sampling: settings of each row.
    """

    caches: Caches
    token: jax.Array
    t: jax.Array
    first_key: jax.Array
    start: jax.Array
    number: jax.Array
    stopped: jax.Array
    seen: jax.Array
    sampling: RowSampling


@functools.partial(jax.jit, static_argnums=(0, 4))
def prefill(program: Program, parameters: Parameters, prompts: ModelInputs, sampling: RowSampling, capacity: int) -> Decoding:
    """Reads prompts and chooses the first token of each answer.

    Args:
      prompts: from data_pipelines.loading.prompts.prompt_inputs, on the current mesh.
      sampling: settings of each row (sampling.of_rows), on the current mesh.
      capacity: room of the caches: the prompts' length and the tokens that may follow.
    """
    computation = program.computation.for_decoding()
    backbone = build(program.model, computation.architecture, parameters)
    length = prompts.tokens.shape[1]
    x, caches = backbone.prefill(prompts, computation, capacity)
    first_key = prompts.intervals.lo[:, -1]  # of the prompt's last token: where the document begins
    seen = seen_tokens(prompts.tokens, jnp.arange(length) >= first_key[:, None], program.model.vocabulary)
    token = choose_tokens(backbone.logits(x[:, -1:])[:, 0], sampling, seen, jnp.int32(0), program.banned_ids)
    return Decoding(
        caches,
        token,
        prompts.positions[:, -1, 0] + 1,
        first_key,
        jnp.int32(length),
        jnp.int32(1),
        _is_stop(program, token),
        seen | _one_hot(token, program.model.vocabulary),
        sampling,
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode(program: Program, parameters: Parameters, decoding: Decoding, limit: jax.Array) -> tuple[jax.Array, jax.Array, Decoding]:
    """Writes tokens until all rows have ended, or `limit` of each row, at most CHUNK.

    Args:
      decoding: consumed: its caches are updated in place.
      limit: number of tokens. The caches must have room for them.

    Returns:
      The tokens [B, CHUNK] int32 that follow `decoding.token`, how many of them were written (those behind have no meaning, nor has what follows a
      stop token), and the state after them.
    """
    computation = program.computation.for_decoding()
    dtype = jnp.dtype(computation.compute_dtype)
    backbone = build(program.model, computation.architecture, parameters)
    limit = jnp.minimum(limit, CHUNK)
    written = jnp.zeros((decoding.token.shape[0], CHUNK), jnp.int32, out_sharding=spec("batch", None))

    def unfinished(state):
        count, _, decoding = state
        return (count < limit) & ~decoding.stopped.all()

    def next_token(state):
        count, written, now = state
        t = now.t[:, None]
        positions = jnp.stack([t, jnp.zeros_like(t), jnp.zeros_like(t)], -1)
        intervals = Intervals(now.first_key[:, None], jnp.full_like(now.first_key, now.start + 1)[:, None])
        x = backbone.embed_tokens(now.token[:, None], dtype)
        x, caches = backbone.step(x, positions, intervals, computation, now.caches, now.start)
        token = choose_tokens(backbone.logits(x)[:, 0], now.sampling, now.seen, now.number, program.banned_ids)
        after = dataclasses.replace(
            now,
            caches=caches,
            token=token,
            t=now.t + 1,
            start=now.start + 1,
            number=now.number + 1,
            stopped=now.stopped | _is_stop(program, token),
            seen=now.seen | _one_hot(token, program.model.vocabulary),
        )
        return count + 1, written.at[:, count].set(token), after

    count, written, decoding = jax.lax.while_loop(unfinished, next_token, (jnp.int32(0), written, decoding))
    return written, count, decoding


def greedy(
    model: config.Model,
    computation: Computation,
    parameters: Parameters,
    prompts: ModelInputs,
    max_tokens: int,
    stop: int,
    banned_ids: tuple[int, ...] = (),
) -> np.ndarray:
    """Decodes greedily until every row has produced `stop` or `max_tokens` tokens.

    Args:
      prompts: as for `prefill`.
      stop: id of the token that ends an answer; it is kept, and the rest of the row is filled with it. -1: answers have `max_tokens` tokens.

    Returns:
      [B, max_tokens] int32: the answers of all rows, in every process.
    """
    program = Program(model, computation, (stop,), banned_ids)
    return generate(program, parameters, prompts, [GREEDY] * prompts.tokens.shape[0], max_tokens)


def generate(program: Program, parameters: Parameters, prompts: ModelInputs, samplings: Sequence[Sampling], max_tokens: int) -> np.ndarray:
    """Writes the answers of a batch.

    Args:
      prompts: as for `prefill`.
      samplings: settings of each row.
      max_tokens: most tokens of an answer.

    Returns:
      [B, max_tokens] int32: the answers of all rows, in every process. A stop token is kept, and the rest of the row is filled with the first of
      `program.stop_ids`.
    """
    stops = np.asarray(program.stop_ids or (-1,))
    decoding = prefill(program, parameters, prompts, on_mesh(samplings), prompts.tokens.shape[1] + max_tokens)
    parts, left = [fetch(decoding.token)[:, None]], max_tokens - 1
    while left and not fetch(decoding.stopped).all():
        tokens, count, decoding = decode(program, parameters, decoding, np.int32(left))
        parts.append(fetch(tokens)[:, : int(count)])
        left -= int(count)
    answers = np.concatenate(parts, axis=1)
    ended = np.cumsum(np.isin(answers, stops), axis=1) > 0
    after = np.pad(ended, ((0, 0), (1, 0)))[:, :-1]  # behind the first stop token
    answers = np.where(after, stops[0], answers)
    return np.pad(answers, ((0, 0), (0, max_tokens - answers.shape[1])), constant_values=stops[0])


def on_mesh(samplings: Sequence[Sampling]) -> RowSampling:
    """Returns the settings of all rows of a batch on the current mesh; every process gives all rows."""
    mesh = jax.sharding.get_mesh()
    sharding = jax.sharding.NamedSharding(mesh, spec("batch"))
    return RowSampling(*(jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for x in of_rows(samplings)))


def fetch(x: jax.Array) -> np.ndarray:
    """Returns all rows of an array to every process."""
    return np.asarray(jax.device_get(jax.sharding.reshard(x, spec(*[None] * x.ndim))))


def _is_stop(program: Program, token: jax.Array) -> jax.Array:
    return jnp.isin(token, np.asarray(program.stop_ids, np.int32)) if program.stop_ids else jnp.zeros_like(token, bool)


def _one_hot(token: jax.Array, vocabulary: int) -> jax.Array:
    return jnp.arange(vocabulary) == token[:, None]
