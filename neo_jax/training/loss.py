"""Next-token cross-entropy without the full logits: the vocabulary's scores exist for one chunk of tokens at a time.

Shape legend: B rows, L tokens, D hidden, V vocabulary (of a device: its part along the axis tensor), n chunks, C tokens of a chunk.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from neo_jax.sharding import spec

CHUNK = 1024  # tokens of a device whose logits exist at once
HIDDEN, TABLE, ROWS = spec("batch", "length", None), spec("vocabulary", "embed"), spec("batch", "length")


def token_losses(hidden: jax.Array, output_matrix: jax.Array, targets: jax.Array, chunk: int = CHUNK) -> jax.Array:
    """Cross-entropy of every position, -log softmax(hidden @ output_matrix.T)[target], in float32.

    The output matrix is gathered along fsdp in the type of `hidden`; each device along tensor scores its part of the vocabulary. The backward
    pass computes a chunk's logits again and adds the matrix' gradient up in float32, or not at all where the matrix does not train.

    Args:
      hidden: [B, L, D] after the last norm.
      output_matrix: [V, D], sharded as spec("vocabulary", "embed").
      targets: [B, L] int32.
      chunk: tokens of a device at a time.

    Returns:
      [B, L] float32.
    """
    return _losses(hidden, jax.sharding.reshard(output_matrix, TABLE), targets, chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _losses(hidden, matrix, targets, chunk: int) -> jax.Array:
    return _results(hidden, matrix, targets, chunk)[0]


def _results(hidden, matrix, targets, chunk: int) -> tuple[jax.Array, jax.Array]:
    """Losses and log-sum-exps [B, L]."""

    def local(hidden, matrix, targets):
        matrix = _gathered(matrix, hidden.dtype)

        def of_chunk(_, x):
            hidden, targets = x
            logits, is_target = _scores(hidden, matrix, targets)
            largest = jax.lax.pmax(logits.max(axis=-1), "tensor")
            total = jax.lax.psum(jnp.exp(logits - largest[:, None]).sum(axis=-1), "tensor")
            lse = largest + jnp.log(total)
            return None, (lse - jax.lax.psum(jnp.where(is_target, logits, 0).sum(axis=-1), "tensor"), lse)

        _, results = jax.lax.scan(of_chunk, None, (_chunks(hidden, chunk), _chunks(targets, chunk)))
        return tuple(_whole(x, targets) for x in results)

    return jax.shard_map(local, in_specs=(HIDDEN, TABLE, ROWS), out_specs=(ROWS, ROWS), check_vma=False)(hidden, matrix, targets)


def _forward(hidden: Any, matrix: Any, targets: Any, chunk: int):
    losses, lses = _results(hidden.value, matrix.value, targets.value, chunk)
    marker = jnp.zeros(()) if matrix.perturbed else None  # None: the matrix is frozen
    return losses, (hidden.value, matrix.value, targets.value, lses, marker)


def _backward(chunk: int, residuals, gradient):
    hidden, matrix, targets, lses, marker = residuals

    def local(hidden, matrix, targets, lses, gradient):
        part, matrix = matrix, _gathered(matrix, hidden.dtype)

        def of_chunk(d_matrix, x):
            hidden, targets, lse, gradient = x
            logits, is_target = _scores(hidden, matrix, targets)
            d_logits = ((jnp.exp(logits - lse[:, None]) - is_target) * gradient[:, None]).astype(hidden.dtype)
            if d_matrix is not None:
                d_matrix += jnp.einsum("cv,cd->dv", d_logits, hidden, preferred_element_type=jnp.float32)
            return d_matrix, jnp.einsum("cv,vd->cd", d_logits, matrix, preferred_element_type=jnp.float32)

        start = None if marker is None else jnp.zeros(matrix.shape[::-1], jnp.float32)  # scattered along the axis in front
        chunks = tuple(_chunks(x, chunk) for x in (hidden, targets, lses, gradient))
        d_matrix, d_hidden = jax.lax.scan(of_chunk, start, chunks)
        d_hidden = jax.lax.psum(_whole(d_hidden, targets), "tensor").astype(hidden.dtype)
        if d_matrix is None:
            return (d_hidden,)
        d_part = jax.lax.psum_scatter(d_matrix.astype(hidden.dtype), "fsdp", scatter_dimension=0, tiled=True)
        return d_hidden, jax.lax.psum(d_part, ("data", "context")).T.astype(part.dtype)

    outputs = (HIDDEN,) if marker is None else (HIDDEN, TABLE)
    gradients = jax.shard_map(local, in_specs=(HIDDEN, TABLE, ROWS, ROWS, ROWS), out_specs=outputs, check_vma=False)(
        hidden, matrix, targets, lses, gradient
    )
    return gradients[0], gradients[1] if len(gradients) == 2 else None, None


_losses.defvjp(_forward, _backward, symbolic_zeros=True)


def _gathered(matrix, dtype):
    return jax.lax.all_gather(matrix.astype(dtype), "fsdp", axis=1, tiled=True)


def _scores(hidden, matrix, targets) -> tuple[jax.Array, jax.Array]:
    """Logits [C, V] of this device's part of the vocabulary, float32, and which of them is the target's."""
    logits = jnp.einsum("cd,vd->cv", hidden, matrix, preferred_element_type=jnp.float32)
    return logits, jnp.arange(len(matrix)) + jax.lax.axis_index("tensor") * len(matrix) == targets[:, None]


def _chunks(x, chunk: int):
    """[B, L, ...] -> [n, C, ...], padded with zeros to whole chunks."""
    x = x.reshape(-1, *x.shape[2:])
    size = min(chunk, len(x))
    x = jnp.pad(x, ((0, -len(x) % size), *((0, 0) for _ in x.shape[1:])))
    return x.reshape(-1, size, *x.shape[1:])


def _whole(x, like):
    """The inverse of `_chunks` for rows of the shape of `like` [B, L]."""
    return x.reshape(-1, *x.shape[2:])[: like.size].reshape(*like.shape, *x.shape[2:])
