"""The configurations from which a draft takes model and phases: the demo's, and those of published models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from configs import demo, neo_ov_2b, neo_ov_9b
from data_pipelines.schema import TOKEN_PIXELS
from neo_jax.drafting.phases import Limits


@dataclasses.dataclass(frozen=True)
class Base:
    """A configuration that drafts are based on.

    Attributes:
      sections: sections of the configuration, as plain dictionaries.
      phases: names of the phases that are templates of "text", "pretrain", "mid" and "sft". Without "text" if the language model is pretrained.
      limits: limits of the machine that it is meant for.
      pretrained: whether it starts from a published checkpoint, whose tokenizer it needs.
    """

    sections: Mapping[str, Any]
    phases: Mapping[str, str]
    limits: Limits
    pretrained: bool

    def template(self, name: str) -> dict[str, Any]:
        """Returns a copy of the phase that is the template of "text", "pretrain", "mid" or "sft"."""
        return dict(self.sections["phases"][self.phases[name]])


_PUBLISHED = {"pretrain": "pretrain", "mid": "mid_16k", "sft": "sft"}
_LARGE = Limits(context=36_864, pixels=4096 * 4096, steps=20_000)
BASES = {
    "demo": Base(
        demo.get_config().to_dict(),
        {"text": "text", "pretrain": "pretrain", "mid": "mid_512", "sft": "sft"},
        Limits(context=2048, pixels=64 * TOKEN_PIXELS, steps=400, tokens_per_step=4096),
        pretrained=False,
    ),
    "neo_ov_2b": Base(neo_ov_2b.get_config().to_dict(), _PUBLISHED, _LARGE, pretrained=True),
    "neo_ov_9b": Base(neo_ov_9b.get_config().to_dict(), _PUBLISHED, _LARGE, pretrained=True),
}
SMOKE_MODEL = {  # a model with all parts, but small
    "hidden": 64,
    "mlp": 96,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "base_layers": 2,
    "pre_buffer_layers": 1,
    "patch_channels": 32,
}
