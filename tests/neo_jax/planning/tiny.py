"""A configuration of two phases, and eight CPU devices as if they were a node of eight H200s."""

import jax

from configs.demo import get_config
from neo_jax.chips import CHIPS
from neo_jax.planning.devices import Hardware


def _configuration():
    config = get_config("smoke")
    config.model.update(
        {"hidden": 64, "mlp": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "base_layers": 2, "pre_buffer_layers": 1, "patch_channels": 32}
    )
    frozen, long = config.phases["pretrain"], config.phases["sft"]
    frozen.mesh.update({"data": -1, "fsdp": 4})
    long.mesh.update({"data": 1, "fsdp": 2, "context": 4})
    config.phases = {"frozen": frozen, "long": long}
    config.curriculum = ("frozen", "long")
    return config


CONFIGURATION = _configuration()
EIGHT = Hardware("h200:1x8", CHIPS["h200"], jax.devices()[:8], 1)
