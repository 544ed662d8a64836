"""The planned memory of answering questions after a phase: its caches and what is held beside them; and what is said when it does not fit."""

import dataclasses

import jax
import pytest

from neo_jax.config import Config
from neo_jax.planning.edges import sizes_of
from neo_jax.planning.evaluation import evaluation_bytes, longest
from neo_jax.sharding import make_mesh
from neo_jax.training.curriculum import abstract_state, phase_mesh
from tests.neo_jax.planning.tiny import CONFIGURATION, EIGHT

pytestmark = pytest.mark.xdist_group("plan")


def asking(tokens: int) -> Config:
    settings = Config.from_config_dict(CONFIGURATION)
    return dataclasses.replace(settings, evaluation=dataclasses.replace(settings.evaluation, tokens=tokens, answer_tokens=32))


def test_caches_grow_with_the_tokens_of_a_batch():
    few, many = asking(1), asking(1 << 17)
    phase = few.phases[-1]
    small, problem = evaluation_bytes(few, phase, EIGHT)
    large, _ = evaluation_bytes(many, phase, EIGHT)
    assert problem == ""
    state = abstract_state(few, phase, phase_mesh(phase))
    held = sum(sizes_of(state.parameters).values()) + sum(sizes_of(state.moments).values())
    assert small > held
    with jax.set_mesh(make_mesh(data=-1, fsdp=phase.mesh.fsdp, tensor=phase.mesh.tensor)):
        shapes = [longest(settings, phase)[0] for settings in (few, many)]
    assert [shape.length for shape in shapes] == [phase.context // 64 * 64 - 64] * 2 and shapes[1].rows >= 4 * shapes[0].rows
    model, shards = few.model, 8 // phase.mesh.tensor
    rows = (shapes[1].rows - shapes[0].rows) // shards
    caches = (
        2
        * rows
        * (shapes[1].length + 32)
        * (model.base_layers + model.pre_buffer_layers)
        * model.kv_heads
        // phase.mesh.tensor
        * model.head_dim
        * 4
    )
    assert large - small >= caches


def test_what_does_not_fit_names_the_key():
    settings = asking(1 << 17)
    narrow = dataclasses.replace(EIGHT, chip=dataclasses.replace(EIGHT.chip, hbm_bytes=1 << 20))
    size, problem = evaluation_bytes(settings, settings.phases[-1], narrow)
    assert size > 1 << 20 and "lower evaluation.tokens (131,072)" in problem
