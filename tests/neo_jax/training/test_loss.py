"""The cross-entropy in chunks equals the one over full logits, which never exist."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from neo_jax.sharding import make_mesh, spec
from neo_jax.training.loss import token_losses
from tests.neo_jax.programs import largest_array

ROWS, LENGTH, HIDDEN, VOCABULARY = 2, 50, 8, 70


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])), jax.default_matmul_precision("highest"):
        yield


def _put(x):
    """An array [B, L, ...] on the mesh that is set, in 32 bits."""
    sharding = NamedSharding(jax.sharding.get_mesh(), spec("batch", "length", *([None] * (x.ndim - 2))))
    return jax.device_put(x.astype(np.int32 if x.dtype.kind == "i" else np.float32), sharding)


def inputs():
    rng = np.random.default_rng(0)
    hidden, matrix = rng.standard_normal((ROWS, LENGTH, HIDDEN)), rng.standard_normal((VOCABULARY, HIDDEN))
    weights = rng.random((ROWS, LENGTH)) * (rng.random((ROWS, LENGTH)) < 0.5)
    targets = rng.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
    return (_put(hidden), jnp.asarray(matrix, jnp.float32), _put(weights)), _put(targets)


def of_full_logits(hidden, matrix, targets):
    logits = jnp.einsum("bld,vd->blv", hidden, matrix)
    return jax.nn.logsumexp(logits, axis=-1) - (logits * jax.nn.one_hot(targets, matrix.shape[0])).sum(-1)


@pytest.mark.parametrize("chunk", [16, 25, 1024])  # a remainder, none, one chunk
def test_equals_the_loss_of_full_logits(chunk):
    (hidden, matrix, weights), targets = inputs()

    def results(losses):
        each, pullback = jax.vjp(lambda *x: losses(*x, targets), hidden, matrix)
        return each, *pullback(weights)

    ours = jax.jit(lambda: results(functools.partial(token_losses, chunk=chunk)))()
    for mine, expected in zip(ours, jax.jit(lambda: results(of_full_logits))(), strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-5, rtol=1e-5)
    assert ours[0].dtype == jnp.float32


@pytest.mark.parametrize("frozen", [False, True])
def test_z_loss_changes_the_gradient_and_not_the_value(frozen):
    """The gradients equal those of the loss over full logits with the term written out."""
    (hidden, matrix, weights), targets = inputs()

    def with_term(hidden, matrix, targets):
        lse = jax.nn.logsumexp(jnp.einsum("bld,vd->blv", hidden, matrix), axis=-1)
        return of_full_logits(hidden, matrix, targets) + 0.1 * lse**2

    def results(losses):
        arguments = (hidden,) if frozen else (hidden, matrix)
        each, pullback = jax.vjp(lambda *x: losses(*x, *((matrix,) if frozen else ()), targets), *arguments)
        return each, *pullback(weights)

    value, *gradients = jax.jit(lambda: results(functools.partial(token_losses, chunk=16, z_loss=0.1)))()
    _, *expected = jax.jit(lambda: results(with_term))()
    plain, *without = jax.jit(lambda: results(functools.partial(token_losses, chunk=16)))()
    np.testing.assert_array_equal(value, plain)
    for mine, theirs, other in zip(gradients, expected, without, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5, rtol=1e-5)
        assert np.abs(mine - other).max() > 0.01


def test_bfloat16_hidden_states_give_float32_losses():
    (hidden, matrix, _), targets = inputs()
    losses = token_losses(hidden.astype(jnp.bfloat16), matrix, targets, 16)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, of_full_logits(hidden, matrix, targets), atol=0.1)


def test_full_logits_never_exist():
    def gradient(losses, hidden, matrix, targets):
        return jax.grad(lambda *x: losses(*x, targets).sum(), argnums=(0, 1))(hidden, matrix)

    length, vocabulary, chunk = 4096, 3000, 128
    shapes = (_put(np.zeros((1, length, HIDDEN))), jnp.zeros((vocabulary, HIDDEN)), _put(np.zeros((1, length), np.int32)))
    chunked = largest_array(functools.partial(gradient, functools.partial(token_losses, chunk=chunk)), *shapes)
    assert chunked == chunk * vocabulary
    assert largest_array(functools.partial(gradient, of_full_logits), *shapes) >= length * vocabulary
