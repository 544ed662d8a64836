"""Next-token cross-entropy without the full logits: logits are computed for one chunk of tokens at a time.

Shape legend: B rows, L tokens, D hidden, V vocabulary (inside shard_map: the device's part along the axis tensor), n chunks, C tokens of a chunk.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from neo_jax.sharding import spec

CHUNK = 1024  # tokens of one device whose logits exist at the same time
HIDDEN, TABLE, ROWS = spec("batch", "length", None), spec("vocabulary", "embed"), spec("batch", "length")


def token_losses(hidden: jax.Array, output_matrix: jax.Array, targets: jax.Array, chunk: int = CHUNK, z_loss: float = 0.0) -> jax.Array:
    """Returns the cross-entropy of every position, -log softmax(hidden @ output_matrix.T)[target].

    The output matrix is gathered along fsdp in the type of `hidden`; each device along tensor computes the logits of its part of the vocabulary.
    The backward pass recomputes the logits of each chunk. It sums the gradient of the matrix in float32, and skips it if the matrix is frozen.

    Args:
      hidden: [B, L, D] after the final norm.
      output_matrix: [V, D], sharded as spec("vocabulary", "embed").
      targets: [B, L] int32.
      chunk: tokens of one device whose logits are computed at a time.
      z_loss: the gradient is that of loss + z_loss * log(sum(exp(logits)))**2, which keeps logits from drifting (PaLM, arXiv 2204.02311, uses 1e-4).
        The values are those of the loss alone, so that losses with and without it compare.

    Returns:
      [B, L] float32, in nats.
    """
    return _losses(hidden, jax.sharding.reshard(output_matrix, TABLE), targets, chunk, z_loss)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _losses(hidden, matrix, targets, chunk: int, z_loss: float) -> jax.Array:
    return _losses_and_lses(hidden, matrix, targets, chunk)[0]


def _losses_and_lses(hidden, matrix, targets, chunk: int) -> tuple[jax.Array, jax.Array]:
    """Returns losses and log-sum-exps of the logits, [B, L] float32 each."""

    def local(hidden, matrix, targets):
        matrix = _gather(matrix, hidden.dtype)

        def chunk_losses(_, x):
            hidden, targets = x
            logits, is_target = _logits(hidden, matrix, targets)
            largest = jax.lax.pmax(logits.max(axis=-1), "tensor")
            total = jax.lax.psum(jnp.exp(logits - largest[:, None]).sum(axis=-1), "tensor")
            lse = largest + jnp.log(total)
            return None, (lse - jax.lax.psum(jnp.where(is_target, logits, 0).sum(axis=-1), "tensor"), lse)

        _, results = jax.lax.scan(chunk_losses, None, (_chunks(hidden, chunk), _chunks(targets, chunk)))
        return tuple(_unchunk(x, targets) for x in results)

    return jax.shard_map(local, in_specs=(HIDDEN, TABLE, ROWS), out_specs=(ROWS, ROWS), check_vma=False)(hidden, matrix, targets)


def _forward(hidden: Any, matrix: Any, targets: Any, chunk: int, z_loss: float):
    losses, lses = _losses_and_lses(hidden.value, matrix.value, targets.value, chunk)
    marker = jnp.zeros(()) if matrix.perturbed else None  # None: the matrix is frozen
    return losses, (hidden.value, matrix.value, targets.value, lses, marker)


def _backward(chunk: int, z_loss: float, residuals, gradient):
    hidden, matrix, targets, lses, marker = residuals

    def local(hidden, matrix, targets, lses, gradient):
        shard, matrix = matrix, _gather(matrix, hidden.dtype)

        def chunk_gradients(d_matrix, x):
            hidden, targets, lse, gradient = x
            logits, is_target = _logits(hidden, matrix, targets)
            shares = jnp.exp(logits - lse[:, None])
            if z_loss:
                shares *= 1 + 2 * z_loss * lse[:, None]
            d_logits = ((shares - is_target) * gradient[:, None]).astype(hidden.dtype)
            if d_matrix is not None:
                d_matrix += jnp.einsum("cv,cd->dv", d_logits, hidden, preferred_element_type=jnp.float32)
            return d_matrix, jnp.einsum("cv,vd->cd", d_logits, matrix, preferred_element_type=jnp.float32)

        start = None if marker is None else jnp.zeros(matrix.shape[::-1], jnp.float32)  # [D, V]: psum_scatter divides the first axis
        chunks = tuple(_chunks(x, chunk) for x in (hidden, targets, lses, gradient))
        d_matrix, d_hidden = jax.lax.scan(chunk_gradients, start, chunks)
        d_hidden = jax.lax.psum(_unchunk(d_hidden, targets), "tensor").astype(hidden.dtype)
        if d_matrix is None:
            return (d_hidden,)
        d_part = jax.lax.psum_scatter(d_matrix.astype(hidden.dtype), "fsdp", scatter_dimension=0, tiled=True)
        return d_hidden, jax.lax.psum(d_part, ("data", "context")).T.astype(shard.dtype)

    outputs = (HIDDEN,) if marker is None else (HIDDEN, TABLE)
    gradients = jax.shard_map(local, in_specs=(HIDDEN, TABLE, ROWS, ROWS, ROWS), out_specs=outputs, check_vma=False)(
        hidden, matrix, targets, lses, gradient
    )
    return gradients[0], gradients[1] if len(gradients) == 2 else None, None


_losses.defvjp(_forward, _backward, symbolic_zeros=True)


def _gather(matrix, dtype):
    """Returns the matrix [V, D] in `dtype`, gathered along fsdp."""
    return jax.lax.all_gather(matrix.astype(dtype), "fsdp", axis=1, tiled=True)


def _logits(hidden, matrix, targets) -> tuple[jax.Array, jax.Array]:
    """Returns float32 logits [C, V] of this device's part of the vocabulary, and a mask [C, V] that is True at the target."""
    logits = jnp.einsum("cd,vd->cv", hidden, matrix, preferred_element_type=jnp.float32)
    return logits, jnp.arange(len(matrix)) + jax.lax.axis_index("tensor") * len(matrix) == targets[:, None]


def _chunks(x, chunk: int):
    """Divides [B, L, ...] into [n, C, ...]; the last chunk is padded with zeros."""
    x = x.reshape(-1, *x.shape[2:])
    size = min(chunk, len(x))
    x = jnp.pad(x, ((0, -len(x) % size), *((0, 0) for _ in x.shape[1:])))
    return x.reshape(-1, size, *x.shape[1:])


def _unchunk(x, like):
    """Inverts `_chunks`: [n, C, ...] to [B, L, ...], where `like` has shape [B, L]."""
    return x.reshape(-1, *x.shape[2:])[: like.size].reshape(*like.shape, *x.shape[2:])
