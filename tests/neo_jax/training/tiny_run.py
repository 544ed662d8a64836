"""A curriculum of a few steps over a corpus of a few scenes."""

import pathlib

from configs.demo import get_config
from data_pipelines.scenes import ScenesSettings
from neo_jax.config import Config

SCENES = ScenesSettings(seed=1, text=120, caption=20, image=120, large=20, multi=20, video=12, held_out=3)
STEPS = {"text": 3, "pretrain": 3, "mid": 4}


def tiny_config_dict(corpus: pathlib.Path, directory: pathlib.Path):
    """configs/demo.py with a tiny model and three phases of a few steps: text alone, frozen base, everything with video."""
    config = get_config("smoke")
    config.model.update({"hidden": 32, "mlp": 48, "heads": 2, "kv_heads": 1, "head_dim": 16, "base_layers": 1, "pre_buffer_layers": 1})
    config.model.patch_channels = 16
    config.tokenizer.path = str(corpus / "tokenizer.model")
    for section in (config.data.sources, config.data.heldout):
        for source in section.values():
            source.path = source.path.replace("runs/demo/corpus", str(corpus))
            source.media_root = source.media_root.replace("runs/demo/corpus", str(corpus))
    for name in set(config.data.heldout) - {"text", "motion"}:
        del config.data.heldout[name]
    config.data.index_folder = str(directory.parent / "index")
    text, pretrain, mid = (config.phases[name] for name in ("text", "pretrain", "sft"))
    config.phases = {"text": text, "pretrain": pretrain, "mid": mid}
    config.curriculum = tuple(STEPS)
    for name, phase in config.phases.items():
        phase.steps = STEPS[name]
    for phase in (text, pretrain):
        phase.update({"context": 256, "segments": 8, "rows_per_step": 2})
    mid.update({"context": 512, "segments": 16, "rows_per_step": 2, "visual_tokens": 256, "images": 64})
    config.run.update({"directory": str(directory), "log_every": 1, "checkpoint_every": 2, "heldout_every": 2, "heldout_rows": 1})
    config.evaluation.update({"questions": 2, "interim_questions": 2, "answer_tokens": 3, "tokens": 2048})
    return config


def tiny_config(corpus: pathlib.Path, directory: pathlib.Path) -> Config:
    return Config.from_config_dict(tiny_config_dict(corpus, directory))
