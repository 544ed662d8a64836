"""NEO-ov 9B: Qwen3-8B-Base with 6 pre-buffer layers. Phases, data and sources of values as in configs/neo_ov_2b.py.

    python -m neo_jax.train --config=configs/neo_ov_9b.py --config.run.directory=/runs/neo_ov_9b \\
        --config.data.sources.pretrain.path=/data/pretrain.jsonl --config.data.sources.pretrain.media_root=/data/media ...
    python -m neo_jax.train --config=configs/neo_ov_9b.py:laptop      (a tiny model and few steps over the demo's corpus: make demo first)
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import neo_ov_2b


def get_config(arg: str | None = None) -> ConfigDict:
    """NEO-ov 9B. arg "laptop": the same phases, shrunk until they run on a laptop."""
    config = neo_ov_2b.get_config(arg)
    if arg == "laptop":
        config.model.update({"pre_buffer_layers": 1, "tied": False})
        config.run.directory = "runs/neo_ov_9b_laptop"
        config.data.index_folder = "runs/neo_ov_9b_laptop/index"
        return config
    config.model.update({"hidden": 4096, "mlp": 12_288, "heads": 32, "kv_heads": 8, "base_layers": 36, "tied": False})  # [Qwen3]
    config.model.pre_buffer_layers = 6  # [paper]
    config.tokenizer.path = "checkpoints/Qwen3-8B-Base"
    config.run.update({"directory": "runs/neo_ov_9b", "initial": "checkpoints/Qwen3-8B-Base"})
    for phase in config.phases.values():
        phase.mesh.fsdp = 32  # [guess]: parameters and both moments in float32 are 123 GB
    return config
