"""The choice of the next token: greedy, and draws whose frequencies are those of the formulas of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neo_jax.inference.generate import on_mesh
from neo_jax.inference.sampling import Sampling, choose_tokens, of_rows, seen_tokens
from neo_jax.sharding import make_mesh

LOGITS = np.array([2.0, 1.5, -1.0, 0.5, 1.9, -3.0], np.float32)
DRAWS = 20_000


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()


def frequencies(seen=(), **settings) -> np.ndarray:
    """How often each token is drawn, over seeds."""
    rows = on_mesh([Sampling(**settings, seed=seed) for seed in range(DRAWS)])
    marked = np.zeros((DRAWS, 6), bool)
    marked[:, list(seen)] = True
    tokens = jax.jit(choose_tokens, static_argnums=4)(jnp.tile(LOGITS, (DRAWS, 1)), rows, jnp.asarray(marked), jnp.int32(3), ())
    return np.bincount(tokens, minlength=6) / DRAWS


def assert_close(found, expected):
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / DRAWS)
    assert not found[expected == 0].any()


def test_temperature():
    assert_close(frequencies(temperature=0.7), softmax(LOGITS / 0.7))


def test_top_k():
    assert_close(frequencies(temperature=1.0, top_k=3), softmax(np.where(LOGITS >= 1.5, LOGITS, -np.inf)))
    assert_close(frequencies(temperature=1.0, top_k=99), softmax(LOGITS))


def test_top_p():
    """The fewest tokens with at least this probability: 0.34 + 0.31 + 0.21 are above 0.8, the first two are not."""
    assert_close(frequencies(temperature=1.0, top_p=0.8), softmax(np.where(LOGITS >= 1.5, LOGITS, -np.inf)))
    assert_close(frequencies(temperature=1.0, top_p=1e-6), np.eye(6)[0])


def test_top_p_is_taken_of_what_top_k_left():
    """Of the first three tokens the first two have 0.76."""
    assert_close(frequencies(temperature=1.0, top_k=3, top_p=0.75), softmax(np.where(LOGITS >= 1.9, LOGITS, -np.inf)))


def test_repetition_penalty():
    expected = LOGITS.copy()
    expected[[0, 5]] = LOGITS[0] / 1.5, LOGITS[5] * 1.5
    assert_close(frequencies(seen=(0, 5), temperature=1.0, repetition_penalty=1.5), softmax(expected))


def test_rows_have_settings_of_their_own_and_greedy_rows_are_greedy():
    settings = [Sampling(), Sampling(repetition_penalty=2.0), Sampling(temperature=1.0, seed=7), Sampling(temperature=1.0, seed=7)]
    seen = jnp.zeros((4, 6), bool).at[:, 0].set(True)

    choose = jax.jit(choose_tokens, static_argnums=4)

    def chosen(number):
        return np.asarray(choose(jnp.tile(LOGITS, (4, 1)), on_mesh(settings), seen, jnp.int32(number), (4,)))

    over_time = np.stack([chosen(number) for number in range(40)])
    assert set(over_time[:, 0]) == {0} and set(over_time[:, 1]) == {1} and 4 not in over_time
    np.testing.assert_array_equal(over_time[:, 2], over_time[:, 3])
    assert len(set(over_time[:, 2])) > 2  # another draw for every token


def test_seen_tokens_leaves_padding_out():
    tokens, valid = jnp.array([[5, 1, 1], [0, 0, 2]]), jnp.array([[False, True, True], [True, True, True]])
    np.testing.assert_array_equal(seen_tokens(tokens, valid, 6), np.array([[0, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]], bool))


OUT_OF_RANGE = [
    *[("temperature", -1), ("temperature", float("nan")), ("top_k", -1)],
    *[("top_p", 0), ("top_p", 1.1), ("repetition_penalty", 0)],
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_settings_out_of_range(name, value):
    assert [found for found, _ in Sampling(**{name: value}).problems()] == [name]


def test_settings_of_rows():
    rows = of_rows([Sampling(top_k=3, seed=2**40 + 5), Sampling(top_p=0.5)])
    assert rows.top_k.tolist() == [3, 0] and rows.seed.tolist() == [5, 0] and rows.top_p.tolist() == [1.0, 0.5]
