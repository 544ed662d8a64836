"""How many new layers does the model need before those of the language model?

Pre-buffers of 1 layer (the demo's), 0, 2 and 4, before 3 base layers; all else is equal, so deeper models have more parameters and take more FLOPs
a token. Read the paired difference of the held-out loss, then exact match. In NEO's paper depth helps.

    python -m launch.sweep run configs/sweeps/pre_buffer.py --devices=2
"""

from __future__ import annotations

from neo_jax.sweeps.choices import Settings, seeds

CONFIG = "configs/ablation.py"
COMMAND = "neo_jax.demo"
RECORDS = "docs/ablations"


def sweep() -> list[Settings]:
    return seeds([{}, *({"model.pre_buffer_layers": layers} for layers in (0, 2, 4))], 3)
