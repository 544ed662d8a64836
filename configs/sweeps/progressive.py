"""Is it better to begin with short rows and small pictures?

The curriculum, whose rows grow from 256 to 512 tokens and whose pictures from 9 to 16 visual tokens, against one that has the last phase's sizes
in every phase with pictures. All runs train on equally many tokens. Read the paired difference of the held-out loss, then exact match.

    python -m launch.sweep run configs/sweeps/progressive.py --devices=2
"""

from __future__ import annotations

from configs.ablation import get_config
from neo_jax.sweeps.choices import Settings, seeds

CONFIG = "configs/ablation.py"
COMMAND = "neo_jax.demo"
RECORDS = "docs/ablations"
SIZES = ("context", "rows_per_step", "visual_tokens", "images", "segments", "max_pixels")


def sweep() -> list[Settings]:
    last = get_config().phases.sft
    return seeds([{}, {f"phases.{name}.{key}": last[key] for name in ("pretrain", "captions", "mid") for key in SIZES}], 3)
