"""Is a pre-buffer that all tokens pass better than an encoder of the same size?

Two layers before the base: as NEO-ov's pre-buffer, or as an encoder, whose layers change visual tokens alone, each attending within its image.
Parameters, initial values and rows are the same. Read the paired difference of the held-out loss, then exact match.

    python -m launch.sweep run configs/sweeps/encoder.py --devices=2
"""

from __future__ import annotations

from neo_jax.sweeps.choices import Settings, seeds

CONFIG = "configs/ablation.py"
COMMAND = "neo_jax.demo"
RECORDS = "docs/ablations"


def sweep() -> list[Settings]:
    two = {"model.pre_buffer_layers": 2}
    return seeds([two, {**two, "model.pre_buffer": "encoder"}], 3)
