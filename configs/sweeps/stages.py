"""Which stages of the curriculum are worth their steps?

The whole curriculum against one without the stage in which the base is frozen, and one without mid-training; the steps of a stage that is left
out go to the next one, so that all runs train on equally many tokens. Read the paired difference of the held-out loss, then exact match.

    python -m launch.sweep run configs/sweeps/stages.py --devices=2
"""

from __future__ import annotations

from configs.ablation import STEPS
from neo_jax.sweeps.choices import Settings, seeds

CONFIG = "configs/ablation.py"
COMMAND = "neo_jax.demo"
RECORDS = "docs/ablations"


def sweep() -> list[Settings]:
    return seeds([{}, _without("pretrain"), _without("mid")], 3)


def _without(stage: str) -> Settings:
    left = [name for name in STEPS if name != stage]
    following = left[list(STEPS).index(stage)]
    return {"curriculum": left, f"phases.{following}.steps": STEPS[following] + STEPS[stage]}
