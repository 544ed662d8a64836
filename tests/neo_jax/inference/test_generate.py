"""Decoding with a cache equals decoding that reads the whole row again for every token, whatever stands beside it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.batch import ModelInputs, row_intervals, stack
from data_pipelines.loading.prompts import prompt_inputs
from data_pipelines.loading.rows import layout
from neo_jax.inference.generate import Program, decode, greedy, prefill
from neo_jax.inference.generate import on_mesh as on_mesh_rows
from neo_jax.inference.sampling import Sampling
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


@pytest.mark.parametrize("variant", [{"mask": "causal", "positions": "one_dimensional"}, {"pre_buffer": "encoder"}])
def test_variants_answer_alike_on_two_devices(variant):
    settings, found = model(**variant), []
    inputs = prompt_inputs(prompts()[:4], LENGTH, VISUAL, IMAGE)
    for devices in (1, 2):
        with jax.set_mesh(make_mesh(data=-1, devices=jax.devices()[:devices])):
            values = on_mesh(settings, "neo", parameters(settings, "neo", seed=5, scale=0.24))
            found.append(np.asarray(greedy(settings, Computation(), values, to_devices(inputs), ANSWER, -1, (IMAGE,))).tolist())
    assert found[0] == found[1] and np.unique(found[0]).size > 4


@pytest.mark.parametrize(
    "axes", [{}, pytest.param({"data": 2, "tensor": 2, "fsdp": 2}, marks=pytest.mark.nightly)], ids=["one device", "mesh"]
)
@pytest.mark.parametrize("variant", [{}, {"mask": "causal", "positions": "one_dimensional"}, {"pre_buffer": "encoder"}])
def test_logits_of_every_step_equal_those_without_a_cache(axes, variant):
    """To 1e-4 of the largest, pre-buffer and pixels included: through prefill and steps of one token and of three."""
    settings = model(kv_heads=2, **variant)
    rng = np.random.default_rng(3)
    documents = [document(rng, pieces) for pieces in ([3, (2, 3), 9], [4, (2, 2), 2, (1, 2), 10], [16], [9, (2, 2), 4])]
    length, prompt = 24, 12  # the prompts end at 12 of 24 positions

    def fit(one):
        return dataclasses.replace(one, tokens=one.tokens[: prompt + 6])

    documents = [fit(one) for one in documents]
    mesh = make_mesh(**axes) if axes else make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        values = on_mesh(settings, "neo", parameters(settings, "neo", seed=5, scale=0.24))
        whole = to_devices(prompt_inputs(documents, length, VISUAL, IMAGE))

        @jax.jit
        def uncached(values, inputs):
            backbone = build(settings, "neo", values)
            return backbone.logits(backbone(inputs, Computation()))

        @functools.partial(jax.jit, static_argnums=(2, 3))
        def cached(values, inputs, cut, size):
            backbone = build(settings, "neo", values)
            x = backbone.embed(inputs, jnp.float32)
            first = inputs._replace(
                **{
                    name: jax.tree.map(lambda a: a[:, :cut], getattr(inputs, name))
                    for name in ("tokens", "positions", "intervals", "visual_slot")
                }
            )
            out, caches = backbone.prefill(first, Computation(), length)
            parts = [out]
            for start in range(cut, length, size):
                some = jax.tree.map(lambda a, start=start: a[:, start : start + size], (x, inputs.positions, inputs.intervals))
                out, caches = backbone.step(*some, Computation(), caches, jnp.int32(start))
                parts.append(out)
            return backbone.logits(jnp.concatenate(parts, axis=1))

        expected = np.asarray(uncached(values, whole))
        real = np.arange(length) >= length - np.array([len(one.tokens) for one in documents])[:, None]
        for size in (1, 3):
            # Text alone behind the cut: an image is read whole.
            cut = max(_end_of_images(one, length) for one in documents)
            found = np.asarray(cached(values, whole, cut + (length - cut) % size, size))
            assert np.abs(found - expected)[real].max() <= 1e-4 * np.abs(expected[real]).max()


def _end_of_images(one, length):
    images = np.flatnonzero(one.tokens == IMAGE)
    return length - len(one.tokens) + (int(images[-1]) + 1 if len(images) else 1)


def test_caches_are_updated_in_place(values):
    """A step takes its caches' memory once, and small arrays."""
    prompts = to_devices(prompt_inputs([document(np.random.default_rng(0), [9])] * 4, 16, 0, IMAGE))
    program = Program(MODEL, Computation())
    sampling = on_mesh_rows([Sampling()] * 4)
    state = jax.eval_shape(lambda *x: prefill(program, *x, 4096), values, prompts, sampling)
    caches = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.caches))
    compiled = decode.lower(program, values, state, jnp.int32(3)).compile().memory_analysis()
    assert caches > 4_000_000 and compiled.alias_size_in_bytes >= caches
    assert compiled.temp_size_in_bytes < caches / 4  # of a chunk of keys
    read = prefill.lower(program, values, prompts, sampling, 4096).compile().memory_analysis()
    assert read.output_size_in_bytes < 1.1 * caches and read.temp_size_in_bytes < caches * 0.6  # of one layer of two


def test_an_answer_does_not_depend_on_its_neighbours(values):
    """Sampled with seeds, alone and together, and however the tokens are divided over calls."""
    settings = [Sampling(temperature=1.0, seed=seed, top_k=20) for seed in range(len(prompts()))]

    def sampled(documents, samplings, limits):
        inputs = to_devices(prompt_inputs(documents, LENGTH, VISUAL, IMAGE))
        program = Program(MODEL, Computation(), (), (IMAGE,))
        state = prefill(program, values, inputs, on_mesh_rows(samplings), LENGTH + ANSWER)
        parts = [np.asarray(state.token)[:, None]]
        for limit in limits:
            tokens, count, state = decode(program, values, state, np.int32(limit))
            assert int(count) == limit
            parts.append(np.asarray(tokens)[:, :limit])
        return np.concatenate(parts, axis=1)

    together = sampled(prompts(), settings, [ANSWER - 1])
    assert len({tuple(row) for row in together.tolist()}) == len(settings)
    for number, (one, setting) in enumerate(zip(prompts(), settings, strict=True)):
        np.testing.assert_array_equal(sampled([one], [setting], [1, 3, ANSWER - 5])[0], together[number])
