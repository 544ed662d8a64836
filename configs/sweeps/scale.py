"""What does each stage bring, at two sizes of the model?

The ablations' model and one half as wide, with all questions asked after every phase. Read exact match after each stage (the page of each run has
it by family).

    python -m launch.sweep run configs/sweeps/scale.py --devices=2
"""

from __future__ import annotations

from neo_jax.sweeps.choices import Settings, seeds

CONFIG = "configs/ablation.py"
COMMAND = "neo_jax.demo"
RECORDS = "docs/ablations"
ASKED = {"evaluation.interim_questions": 120}
SMALL = {"model.hidden": 64, "model.mlp": 128, "model.heads": 4, "model.kv_heads": 2}


def sweep() -> list[Settings]:
    return seeds([ASKED, {**ASKED, **SMALL}], 3)
