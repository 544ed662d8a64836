"""How should the labels of long and short answers be weighed?

Each of a sample's N labels has the weight 1/sqrt(N) ("square", NEO-ov's), 1 ("token") or 1/N ("sample"). The held-out loss is weighed as the
training loss is, so only exact match compares these settings.

    python -m launch.sweep run configs/sweeps/loss_weighting.py --devices=2
"""

from __future__ import annotations

from neo_jax.sweeps.choices import Settings, seeds

CONFIG = "configs/ablation.py"
COMMAND = "neo_jax.demo"
RECORDS = "docs/ablations"


def sweep() -> list[Settings]:
    return seeds([{}, *({"phases.*.loss_weighting": weighting} for weighting in ("token", "sample"))], 3)
