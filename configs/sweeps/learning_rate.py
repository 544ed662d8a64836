"""Which peak learning rate does each phase want?

The ablations' curriculum, with a factor on the learning rate of one phase, the others as they are. Read the paired difference of the held-out loss
to the first setting, over equal seeds, then exact match. The last phase is the one that counts: a phase whose own loss is low may be a bad start for
the next.

    python -m launch.sweep run configs/sweeps/learning_rate.py --devices=2
"""

from __future__ import annotations

from configs.ablation import get_config
from neo_jax.sweeps.choices import Settings, seeds

CONFIG = "configs/ablation.py"
COMMAND = "neo_jax.demo"
RECORDS = "docs/ablations"
FACTORS = (0.5, 2.0)


def sweep() -> list[Settings]:
    config = get_config()
    settings: list[Settings] = [{}]
    for name in config.curriculum:
        settings += [{f"phases.{name}.learning_rate": factor * config.phases[name].learning_rate} for factor in FACTORS]
    return seeds(settings, 3)
