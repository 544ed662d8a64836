"""Do image tokens need their row and column as positions?

NEO-ov gives all tokens of an image one t, and each its row h and its column w (Native-RoPE). Against it: one-dimensional positions, where t counts
every token and the channels of h and w carry no position, with the same parameters; and Native-RoPE whose rotary base of h and w is 100 instead
of 10,000, for images of few tokens a side. Read the paired difference of the held-out loss, then exact match, of left_right, nearer and distance
first. NEO's paper (Table 3) has Native-RoPE ahead.

    python -m launch.sweep run configs/sweeps/rope.py --devices=2
"""

from __future__ import annotations

from neo_jax.sweeps.choices import Settings, seeds

CONFIG = "configs/ablation.py"
COMMAND = "neo_jax.demo"
RECORDS = "docs/ablations"


def sweep() -> list[Settings]:
    return seeds([{}, {"model.positions": "one_dimensional"}, {"model.rope_theta_hw": 100.0}], 3)
