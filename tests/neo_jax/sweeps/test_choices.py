"""Grids, draws and seeds."""

import pytest

from neo_jax.sweeps.choices import draws, grid, seeds
from neo_jax.sweeps.dimensions import Choice, LogUniform, Uniform


def test_a_grid_has_every_combination():
    assert grid({"a": (1, 2), "b": "xy"}) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert grid({}) == [{}]


def test_more_draws_begin_with_the_same_ones():
    choices = {"a": LogUniform(1e-4, 1e-2), "b": Choice(1, 2, 3), "c": Uniform(-1, 1)}
    few, many = draws(3, choices, seed=5), draws(200, choices, seed=5)
    assert many[:3] == few
    assert draws(3, choices, seed=6) != few
    assert all(1e-4 <= each["a"] <= 1e-2 and each["b"] in (1, 2, 3) and -1 <= each["c"] <= 1 for each in many)
    assert sum(each["a"] < 1e-3 for each in many) / 200 == pytest.approx(0.5, abs=0.12)  # half of the draws in each power of ten


def test_a_key_draws_the_same_whatever_others_there_are():
    assert [each["a"] for each in draws(5, {"b": Uniform(0, 1), "a": Uniform(0, 1)})] == [
        each["a"] for each in draws(5, {"a": Uniform(0, 1)})
    ]


def test_seeds_go_around_all_settings():
    assert seeds([{"a": 1}, {"a": 2}], 2) == [
        {"a": 1, "run.seed": 0},
        {"a": 2, "run.seed": 0},
        {"a": 1, "run.seed": 1},
        {"a": 2, "run.seed": 1},
    ]
