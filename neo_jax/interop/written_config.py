"""Writes the config.json of a checkpoint. Fields that were read from another config.json are kept, also those without effect here."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from neo_jax import config
from neo_jax.interop.config_fields import DOWNSAMPLE_RATIO, PATCH_SIDE

IMAGE_TOKENS = {"img_start_token_id": "<img>", "img_end_token_id": "</img>", "img_context_token_id": "<IMG_CONTEXT>"}
POSITIONS = 4096  # written where nothing was read: no limit here, rotary angles are computed as they are needed


def written_config(
    model: config.Model, architecture: str, dtype: str, special: Mapping[str, int] | None, original: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the fields of a config.json.

    Args:
      dtype: type of most tensors; written where the original names one, and if there is no original.
      special: ids of the tokenizer's special tokens; None if there is no tokenizer.
      original: the config.json that the parameters were read from, a Qwen3's or a NEO's; None: they began as random ones.
    """
    original = copy.deepcopy(dict(original or {}))
    if architecture == "qwen3":
        return _language(model, model.base_layers, dtype, original)
    of_neo = "llm_config" in original
    language = original.pop("llm_config", {}) if of_neo else original
    vision: dict[str, Any] = original.pop("vision_config", {})
    top = original if of_neo else {}
    layers = model.base_layers + model.pre_buffer_layers
    names = {"architectures", "model_type", "transformers_version"}
    llm = _language(model, layers, dtype, language if of_neo else {name: value for name, value in language.items() if name not in names})
    llm |= {"extra_num_layers": model.pre_buffer_layers, "rope_theta_hw": model.rope_theta_hw}
    if not of_neo:
        llm["max_position_embeddings_hw"] = POSITIONS
        vision = {
            "num_channels": 3,
            "patch_size": PATCH_SIDE,
            "downsample_ratio": DOWNSAMPLE_RATIO,
            "max_position_embeddings_vision": POSITIONS,
        }
    vision |= {"hidden_size": model.patch_channels, "llm_hidden_size": model.hidden, "rope_theta_vision": model.patch_rope_theta}
    ids = {field: special[token] for field, token in IMAGE_TOKENS.items()} if special else {}
    top = {"model_type": "neo_chat"} | _with_dtype(top, dtype, fresh=not of_neo) | ids
    return top | {"llm_config": llm, "vision_config": vision}


def _language(model: config.Model, layers: int, dtype: str, original: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of the language model, with those of `original` that do not follow from the model."""
    fresh = not original
    sizes = {
        "hidden_size": model.hidden,
        "intermediate_size": model.mlp,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "num_hidden_layers": layers,
        "vocab_size": model.vocabulary,
        "rms_norm_eps": model.norm_epsilon,
    }
    written = _with_dtype(original, dtype, fresh=fresh) | sizes
    if fresh:
        written |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu", "attention_bias": False}
        written |= {"max_position_embeddings": POSITIONS, "initializer_range": model.initializer_range}
    if "tie_word_embeddings" in original or fresh:
        written["tie_word_embeddings"] = model.tied
    if "rope_parameters" not in original:  # which says the base, since transformers 5
        written["rope_theta"] = model.rope_theta
    if "layer_types" in original and original["layer_types"] is not None:
        written["layer_types"] = ["full_attention"] * layers
    return written


def _with_dtype(values: Mapping[str, Any], dtype: str, fresh: bool) -> dict[str, Any]:
    written = dict(values)
    for field in ("dtype", "torch_dtype"):
        if written.get(field) is not None:
            written[field] = dtype
    return written | ({"torch_dtype": dtype} if fresh else {})
