"""Lists of settings for sweep files: grids, random draws, seeds.

A setting is a dictionary of values by dotted key, as neo_jax.config.override takes it.

Lists are joined with +, and a constraint is a condition in a list comprehension:

    [each for each in grid({"model.heads": (4, 8), "model.kv_heads": (2, 4, 8)}) if each["model.kv_heads"] <= each["model.heads"]]
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Settings = dict[str, Any]
SEED = "run.seed"


def grid(choices: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Returns every combination of the values of some keys; the last key changes fastest."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def draws(count: int, choices: Mapping[str, Callable[[random.Random], Any]], seed: int = 0) -> list[Settings]:
    """Returns random settings, the same in every call: more of them begin with the same ones.

    Args:
      count: how many.
      choices: for each key what draws a value: uniform, log_uniform, one_of.
      seed: of the draws, not of the runs.
    """
    return [{key: draw(random.Random(f"{seed} {place} {key}")) for key, draw in choices.items()} for place in range(count)]


def uniform(low: float, high: float) -> Callable[[random.Random], float]:
    return lambda generator: generator.uniform(low, high)


def log_uniform(low: float, high: float) -> Callable[[random.Random], float]:
    """Draws a number whose logarithm is uniform: for learning rates."""
    return lambda generator: math.exp(generator.uniform(math.log(low), math.log(high)))


def one_of(*values: Any) -> Callable[[random.Random], Any]:
    return lambda generator: generator.choice(values)


def seeds(settings: Sequence[Settings], count: int) -> list[Settings]:
    """Returns each setting with each of the seeds 0 to count - 1. The first seed of all settings comes first: an early look compares all of them."""
    return [{**each, SEED: seed} for seed in range(count) for each in settings]
