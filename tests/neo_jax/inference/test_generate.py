"""Greedy decoding with a cache equals greedy decoding that reads the whole row again for every token."""

import functools

import jax
import numpy as np
import pytest

from data_pipelines.batch import ModelInputs, row_intervals, stack
from data_pipelines.loading.prompts import prompt_inputs
from data_pipelines.loading.rows import layout
from neo_jax.inference.generate import greedy
from neo_jax.model.backbone import build
from neo_jax.model.computation import Computation
from neo_jax.sharding import make_mesh, to_devices
from tests.neo_jax.tiny_model import IMAGE, document, model, on_mesh, parameters

MODEL = model(pre_buffer_layers=0)  # the golden continuations have a pre-buffer
ANSWER = 8
LENGTH, VISUAL = 24, 12  # of the prompts


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])), jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def values():
    # Larger than a fresh model's, whose next token would hardly depend on what it reads.
    return on_mesh(MODEL, "neo", parameters(MODEL, "neo", seed=5, scale=0.24))


@functools.cache
def prompts():
    rng = np.random.default_rng(1)
    return [document(rng, pieces) for pieces in ([3, (2, 3), 4, (2, 2), 3], [2, (2, 5), 5], [9], [2], [6, (1, 3), 1])]


@functools.cache
def next_token_scores():
    @jax.jit
    def scores(values, inputs, last):
        backbone = build(MODEL, "neo", values)
        return backbone.logits(backbone(inputs, Computation()))[0, last]

    return scores


def by_reading_everything_again(values, prompt, stop, banned_ids):
    """The same rule, one row at a time, without cache and without a prompt's distance from the row's end."""
    tokens, length = list(prompt.tokens), LENGTH + ANSWER
    for _ in range(ANSWER):
        place = layout(np.array(tokens, np.int32), prompt.grids, IMAGE)
        n, v = len(tokens), len(prompt.visual)
        row = ModelInputs(
            tokens=np.pad(np.array(tokens, np.int32), (0, length - n)),
            positions=np.pad(place.positions, ((0, length - n), (0, 0))),
            intervals=row_intervals([place.intervals], length),
            visual_slot=np.pad(place.visual_slot, (0, length - n), constant_values=-1),
            visual=np.pad(prompt.visual, ((0, VISUAL - v), (0, 0))),
            visual_position=np.pad(place.visual_position, ((0, VISUAL - v), (0, 0))),
        )
        scores = np.array(next_token_scores()(values, to_devices(stack([row])), n - 1))
        scores[list(banned_ids)] = -np.inf
        tokens.append(int(scores.argmax()))
        if tokens[-1] == stop:
            break
    answer = tokens[len(prompt.tokens) :]
    return answer + [stop] * (ANSWER - len(answer))


def cached(values, stop, banned_ids):
    inputs = prompt_inputs(prompts(), LENGTH, VISUAL, IMAGE)
    return np.asarray(greedy(MODEL, Computation(), values, to_devices(inputs), ANSWER, stop, banned_ids)).tolist()


@pytest.fixture(scope="module")
def answers(values):
    return cached(values, -1, (IMAGE,))


def test_equals_reading_everything_again(values, answers):
    assert len({len(prompt.tokens) for prompt in prompts()}) == len(prompts())
    assert answers == [by_reading_everything_again(values, prompt, -1, (IMAGE,)) for prompt in prompts()]
    assert len({tuple(answer) for answer in answers}) == len(prompts()) and np.unique(answers).size > 10


def test_stop_and_banned_ids(values, answers):
    at = next(i for i in range(2, ANSWER - 1) if answers[0][i] not in answers[0][:i])
    stop = answers[0][at]
    forbidden = next(token for token in answers[1] if token not in answers[0][: at + 1])
    ours = cached(values, stop, (IMAGE, forbidden))
    assert ours == [by_reading_everything_again(values, prompt, stop, (IMAGE, forbidden)) for prompt in prompts()]
    assert ours[0] == answers[0][: at + 1] + [stop] * (ANSWER - at - 1)  # the stop is kept, and repeated
    assert forbidden not in np.array(ours) and ours[1] != answers[1]
    assert any(stop not in answer for answer in ours)  # rows go on when others have stopped
