"""The configuration of the drills: configs/demo.py with a tiny model and two phases of a few steps. Its argument is the folder of the drills.

python -m neo_jax.train --config=drills/tiny.py:FOLDER --config.run.directory=RUN
python -m neo_jax.train --config=drills/tiny.py:FOLDER,24,100 --config.run.directory=RUN         (24 phases of 100 steps, by turns of the two)
"""

from __future__ import annotations

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # a configuration is run as a file, from anywhere

from ml_collections import ConfigDict

from configs.demo import get_config as demo

STEPS = {"text": 6, "mid": 8}
TOTAL = sum(STEPS.values())


def get_config(arg: str | None = None) -> ConfigDict:
    """Six steps of text, then eight of everything with pictures and video; they save every second step."""
    if not arg:
        raise ValueError("drills/tiny.py needs the folder of the drills: drills/tiny.py:FOLDER")
    folder, *numbers = arg.split(",")
    root = os.path.abspath(folder)
    config = demo("smoke")
    config.model.update({"hidden": 32, "mlp": 48, "heads": 2, "kv_heads": 1, "head_dim": 16, "base_layers": 1, "pre_buffer_layers": 1})
    config.model.patch_channels = 16
    config.tokenizer.path = f"{root}/corpus/tokenizer.model"
    for section in (config.data.sources, config.data.heldout):
        for source in section.values():
            source.path = source.path.replace("runs/demo/corpus", f"{root}/corpus")
            source.media_root = source.media_root.replace("runs/demo/corpus", f"{root}/corpus")
    for name in set(config.data.heldout) - {"text", "motion"}:
        del config.data.heldout[name]
    config.data.index_folder = f"{root}/index"
    text, mid = config.phases["text"], config.phases["sft"]
    text.update({"context": 256, "segments": 8})
    mid.update({"context": 512, "segments": 16, "visual_tokens": 256, "images": 64})
    config.phases = {"text": text, "mid": mid}
    config.curriculum = tuple(STEPS)
    for name, phase in config.phases.items():
        phase.update({"steps": STEPS[name], "rows_per_step": 2})
    config.run.update({"log_every": 1, "checkpoint_every": 2, "heldout_every": 4, "heldout_rows": 2, "keep_checkpoints": 4})
    config.evaluation.update({"questions": 2, "interim_questions": 2, "answer_tokens": 3, "tokens": 2048})
    if numbers:
        count, steps = map(int, numbers)
        config.curriculum = tuple(f"{('text', 'mid')[number % 2]}_{number:02d}" for number in range(count))
        config.phases = {name: config.phases[name.partition("_")[0]].to_dict() | {"steps": steps} for name in config.curriculum}
        for name in config.curriculum[1:]:
            config.phases[name]["architecture"] = "neo"  # the first picture has made the model one
        config.run.update({"checkpoint_every": 20, "heldout_every": 0})
    return config
