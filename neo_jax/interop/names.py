"""Conversion of official checkpoint tensors to the parameters of this project.

A table gives, for each parameter, name and shape of the official tensor (output dimension first, as in torch) and the conversion of its layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from neo_jax import config
from neo_jax.interop.config_fields import PATCH_SIDE
from neo_jax.interop.errors import WeightsError

MERGED_SIDE = 2  # patches along a side of a visual token


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a parameter is converted from an official tensor.

    Attributes:
      name: official name, with {layer} for stacked parameters.
      shape: shape of the official tensor.
      convert: converts the official array to our layout.
    """

    name: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


Rules = dict[str, Rule]  # by parameter name in this project


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _transposed(x: np.ndarray) -> np.ndarray:
    """[out, in] -> [in, out]."""
    return x.T


def _convolution(x: np.ndarray) -> np.ndarray:
    """[out, in, rows, columns] -> [rows, columns, in, out]."""
    return x.transpose(2, 3, 1, 0)


def _layer_rules(model: config.Model, spatial: bool) -> Rules:
    """Returns the rules for the parameters of a layer. Official names lack the language model's prefix."""
    d, f, h = model.hidden, model.mlp, model.head_dim
    queries, keys = model.heads * h, model.kv_heads * h

    def heads(x: np.ndarray) -> np.ndarray:
        """[heads x H, D] -> [D, heads, H]."""
        return x.reshape(-1, h, d).transpose(2, 0, 1)

    def from_heads(x: np.ndarray) -> np.ndarray:
        """[D, heads x H] -> [heads, H, D]."""
        return x.T.reshape(-1, h, d)

    rules = {
        "attention_norm": Rule("input_layernorm", (d,), _same),
        "mlp_norm": Rule("post_attention_layernorm", (d,), _same),
        "attention.q": Rule("self_attn.q_proj", (queries, d), heads),
        "attention.k": Rule("self_attn.k_proj", (keys, d), heads),
        "attention.v": Rule("self_attn.v_proj", (keys, d), heads),
        "attention.o": Rule("self_attn.o_proj", (d, queries), from_heads),
        "attention.q_norm": Rule("self_attn.q_norm", (h,), _same),
        "attention.k_norm": Rule("self_attn.k_norm", (h,), _same),
        "mlp.gate": Rule("mlp.gate_proj", (f, d), _transposed),
        "mlp.up": Rule("mlp.up_proj", (f, d), _transposed),
        "mlp.down": Rule("mlp.down_proj", (d, f), _transposed),
    }
    if spatial:
        rules["attention.q_hw"] = Rule("self_attn.q_proj_hw", (queries, d), heads)
        rules["attention.k_hw"] = Rule("self_attn.k_proj_hw", (keys, d), heads)
        rules |= {f"attention.{x}_norm_{part}": Rule(f"self_attn.{x}_norm_{part}", (h // 2,), _same) for x in "qk" for part in "hw"}
    return {ours: dataclasses.replace(rule, name=f"model.layers.{{layer}}.{rule.name}.weight") for ours, rule in rules.items()}


def _single_rules(model: config.Model) -> Rules:
    """Returns the rules for the other parameters of the language model."""
    table = (model.vocabulary, model.hidden)
    rules = {
        "embedding": Rule("model.embed_tokens.weight", table, _same),
        "final_norm": Rule("model.norm.weight", (model.hidden,), _same),
    }
    return rules if model.tied else rules | {"output": Rule("lm_head.weight", table, _same)}


def _vision_rules(model: config.Model) -> Rules:
    channels, embeddings = model.patch_channels, "vision_model.embeddings"
    patch, merge = (channels, 3, PATCH_SIDE, PATCH_SIDE), (model.hidden, channels, MERGED_SIDE, MERGED_SIDE)
    return {
        "patch_embedding.patch": Rule(f"{embeddings}.patch_embedding.weight", patch, _convolution),
        "patch_embedding.patch_bias": Rule(f"{embeddings}.patch_embedding.bias", patch[:1], _same),
        "patch_embedding.merge": Rule(f"{embeddings}.dense_embedding.weight", merge, _convolution),
        "patch_embedding.merge_bias": Rule(f"{embeddings}.dense_embedding.bias", merge[:1], _same),
    }


def neo_parameters(
    model: config.Model, tensors: Mapping[str, np.ndarray], prefix: str = "language_model.", vision: bool = True
) -> dict[str, np.ndarray]:
    """Converts official tensors to the parameters of a NEO, layers stacked.

    Args:
      tensors: arrays by official name.
      prefix: prefix of the language model's official names.
      vision: whether the tensors include the patch embedding.

    Raises:
      WeightsError: a tensor is missing, unknown, or has another shape than config.json implies.
    """
    stacks = {
        "pre_buffer": range(model.pre_buffer_layers),
        "base": range(model.pre_buffer_layers, model.pre_buffer_layers + model.base_layers),
    }
    return _parameters(model, tensors, prefix, _vision_rules(model) if vision else {}, _layer_rules(model, spatial=True), stacks)


def qwen3_parameters(model: config.Model, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts official tensors to the parameters of a Qwen3 (architecture "qwen3"), layers stacked. Raises WeightsError like neo_parameters."""
    return _parameters(model, tensors, "", {}, _layer_rules(model, spatial=False), {"base": range(model.base_layers)})


def _parameters(
    model: config.Model, tensors: Mapping[str, np.ndarray], prefix: str, vision: Rules, layer: Rules, stacks: Mapping[str, range]
) -> dict[str, np.ndarray]:
    reader, single = _Reader(tensors), _single_rules(model)
    parameters = {ours: reader.take(prefix + rule.name, rule) for ours, rule in single.items()}
    if model.tied:
        reader.take_copy(f"{prefix}lm_head.weight", prefix + single["embedding"].name)
    parameters |= {ours: reader.take(rule.name, rule) for ours, rule in vision.items()}
    for stack, indices in stacks.items():
        if indices:
            for ours, rule in layer.items():
                parameters[f"{stack}.{ours}"] = np.stack([reader.take(prefix + rule.name.format(layer=i), rule) for i in indices])
    reader.finish()
    return parameters


class _Reader:
    """Looks up tensors by name, and reports in the end which were never used."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors, self.taken = tensors, set[str]()

    def take(self, name: str, rule: Rule) -> np.ndarray:
        if name not in self.tensors:
            raise WeightsError(f"the checkpoint has no tensor {name!r}: is config.json that of these weights?")
        self.taken.add(name)
        tensor = np.asarray(self.tensors[name])
        if tensor.shape != rule.shape:
            raise WeightsError(f"tensor {name!r} has shape {tensor.shape}, by config.json it is {rule.shape}: is it that of these weights?")
        return rule.convert(tensor)

    def take_copy(self, name: str, of: str) -> None:
        """Accepts a tensor `name` that equals the tensor `of`: tied checkpoints are published with or without the output matrix."""
        if name in self.tensors:
            if not np.array_equal(self.tensors[name], self.tensors[of]):
                raise WeightsError(f"tensor {name!r} differs from {of!r}, but config.json ties them: is it that of these weights?")
            self.taken.add(name)

    def finish(self) -> None:
        left = sorted(set(self.tensors) - self.taken)
        if left:
            raise WeightsError(f"the checkpoint has {len(left)} tensors that the model has no place for, the first is {left[0]!r}")
