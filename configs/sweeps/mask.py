"""Does it help that a visual token attends to its whole image?

NEO-ov's mask is mixed: text is causal, and the tokens of an image attend to all of that image. Against it: the causal mask for all tokens. Both
have the same parameters and read the same rows. Read the paired difference of the held-out loss, then exact match. NEO's paper (Table 3) has the
mixed mask ahead.

    python -m launch.sweep run configs/sweeps/mask.py --devices=2
"""

from __future__ import annotations

from neo_jax.sweeps.choices import Settings, seeds

CONFIG = "configs/ablation.py"
COMMAND = "neo_jax.demo"
RECORDS = "docs/ablations"


def sweep() -> list[Settings]:
    return seeds([{}, {"model.mask": "causal"}], 3)
