"""Lists of settings for sweep files: grids, random draws, seeds.

A setting is a dictionary of values by dotted key, as neo_jax.config.override takes it.

Lists are joined with +, and a constraint is a condition in a list comprehension:

    [each for each in grid({"model.heads": (4, 8), "model.kv_heads": (2, 4, 8)}) if each["model.kv_heads"] <= each["model.heads"]]
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from neo_jax.sweeps.dimensions import Dimension

Settings = dict[str, Any]
SEED = "run.seed"


def grid(choices: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Returns every combination of the values of some keys; the last key changes fastest."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def draws(count: int, choices: Mapping[str, Dimension], seed: int = 0) -> list[Settings]:
    """Returns random settings, the same in every call: more of them begin with the same ones.

    Args:
      count: how many.
      choices: for each key what it may be (neo_jax/sweeps/dimensions.py).
      seed: of the draws, not of the runs.
    """
    return [{key: each.draw(random.Random(f"{seed} {place} {key}")) for key, each in choices.items()} for place in range(count)]


def seeds(settings: Sequence[Settings], count: int) -> list[Settings]:
    """Returns each setting with each of the seeds 0 to count - 1. The first seed of all settings comes first: an early look compares all of them."""
    return [{**each, SEED: seed} for seed in range(count) for each in settings]
