"""The demo's model over a shorter curriculum, for the ablations in configs/sweeps: about a third of the demo's steps.

The text phase, one with the base frozen, one of captions, one of single images at 256 tokens, and one of everything (large pictures, several
pictures, clips) at 512. It shares the demo's corpus and indexes.

python -m neo_jax.demo --config=configs/ablation.py                        (draws the demo's corpus unless it is there)
python -m neo_jax.train --config=configs/ablation.py                       (trains alone, the corpus being there)
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import demo

STEPS = {"text": 100, "pretrain": 40, "captions": 160, "mid": 300, "sft": 120}


def get_config(arg: str | None = None) -> ConfigDict:
    """The shorter curriculum; it takes no argument."""
    if arg is not None:
        raise ValueError(f"configs/ablation.py takes no argument, not {arg!r}")
    config = demo.get_config()
    phases = config.phases
    phases.mid, phases.sft = phases.mid_256, phases.mid_512
    phases.sft.minimum_ratio = 0.02
    config.phases = ConfigDict({name: phases[name] for name in STEPS})
    for name, steps in STEPS.items():
        config.phases[name].steps = steps
    config.curriculum = tuple(STEPS)
    config.run.update({"directory": f"{demo.ROOT}/ablation", "heldout_every": 120, "heldout_rows": 4, "log_every": 20})
    config.evaluation.update({"questions": 120, "interim_questions": 1})
    return config
