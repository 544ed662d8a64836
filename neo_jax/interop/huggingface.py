"""Parameters between the official checkpoints' names and layouts and ours.

One table says, for each of our parameters, the official name and how an official array (output first, as in torch) becomes ours.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

from neo_jax import config


class WeightsError(ValueError):
    """A folder that is not a checkpoint of this model; the message names the file and the field or parameter."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one of our parameters is read from an official one: `name` with {layer} for stacked ones, `ours` applied to the official array."""

    name: str
    ours: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _convolution(x: np.ndarray) -> np.ndarray:
    """[out, in, rows, columns] -> [rows, columns, in, out]."""
    return x.transpose(2, 3, 1, 0)


def _rules(model: config.Model, spatial: bool) -> tuple[dict[str, Rule], dict[str, Rule]]:
    """Rules of single parameters, and of a layer's parameters. Official names without the `language_model.` prefix of a NEO checkpoint."""
    d, h = model.hidden, model.head_dim

    def heads(x):  # [heads x H, D] -> [D, heads, H]
        return x.reshape(-1, h, d).transpose(2, 0, 1)

    def transposed(x):
        return x.T

    layer = {
        "attention_norm": Rule("input_layernorm", _same),
        "mlp_norm": Rule("post_attention_layernorm", _same),
        "attention.q": Rule("self_attn.q_proj", heads),
        "attention.k": Rule("self_attn.k_proj", heads),
        "attention.v": Rule("self_attn.v_proj", heads),
        "attention.o": Rule("self_attn.o_proj", lambda x: x.T.reshape(-1, h, d)),
        "attention.q_norm": Rule("self_attn.q_norm", _same),
        "attention.k_norm": Rule("self_attn.k_norm", _same),
        "mlp.gate": Rule("mlp.gate_proj", transposed),
        "mlp.up": Rule("mlp.up_proj", transposed),
        "mlp.down": Rule("mlp.down_proj", transposed),
    }
    single = {"embedding": Rule("model.embed_tokens.weight", _same), "final_norm": Rule("model.norm.weight", _same)}
    if not model.tied:
        single["output"] = Rule("lm_head.weight", _same)
    if spatial:
        layer["attention.q_hw"] = Rule("self_attn.q_proj_hw", heads)
        layer["attention.k_hw"] = Rule("self_attn.k_proj_hw", heads)
        layer |= {f"attention.{x}_norm_{part}": Rule(f"self_attn.{x}_norm_{part}", _same) for x in "qk" for part in "hw"}
    return single, {ours: Rule("model.layers.{layer}." + rule.name + ".weight", rule.ours) for ours, rule in layer.items()}


VISION = {
    "patch_embedding.patch": Rule("vision_model.embeddings.patch_embedding.weight", _convolution),
    "patch_embedding.patch_bias": Rule("vision_model.embeddings.patch_embedding.bias", _same),
    "patch_embedding.merge": Rule("vision_model.embeddings.dense_embedding.weight", _convolution),
    "patch_embedding.merge_bias": Rule("vision_model.embeddings.dense_embedding.bias", _same),
}


def neo_parameters(
    model: config.Model, tensors: Mapping[str, np.ndarray], prefix: str = "language_model.", vision: bool = True
) -> dict[str, np.ndarray]:
    """Our parameters of a NEO from official tensors, layers stacked.

    Args:
      tensors: arrays by official name.
      prefix: what precedes the language model's names.
      vision: whether the patch embedding is among them.

    Raises:
      WeightsError: a tensor is missing, left over, or of a shape that config.json contradicts.
    """
    single, layer = _rules(model, spatial=True)
    reader = _Reader(tensors)
    parameters = {ours: reader.take(prefix + rule.name, rule) for ours, rule in single.items()}
    if model.tied:
        reader.take_copy(prefix + "lm_head.weight", prefix + single["embedding"].name)
    if vision:
        parameters |= {ours: reader.take(rule.name, rule) for ours, rule in VISION.items()}
    ranges = {
        "pre_buffer": range(model.pre_buffer_layers),
        "base": range(model.pre_buffer_layers, model.pre_buffer_layers + model.base_layers),
    }
    for stack, indices in ranges.items():
        parameters |= _stacked(reader, stack, indices, layer, prefix) if len(indices) else {}
    reader.finish()
    return parameters


def qwen3_parameters(model: config.Model, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our parameters of a Qwen3 (architecture "qwen3") from official tensors, layers stacked. Raises WeightsError as neo_parameters."""
    single, layer = _rules(model, spatial=False)
    reader = _Reader(tensors)
    parameters = {ours: reader.take(rule.name, rule) for ours, rule in single.items()}
    if model.tied:
        reader.take_copy("lm_head.weight", single["embedding"].name)
    parameters |= _stacked(reader, "base", range(model.base_layers), layer, "")
    reader.finish()
    return parameters


def _stacked(reader, stack, indices, layer, prefix):
    parameters = {}
    for ours, rule in layer.items():
        names = [prefix + rule.name.format(layer=i) for i in indices]
        arrays = [reader.take(name, rule) for name in names]
        for name, array in zip(names, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise WeightsError(f"tensor {name!r} has another shape than {names[0]!r}: layers must be alike")
        parameters[f"{stack}.{ours}"] = np.stack(arrays)
    return parameters


class _Reader:
    """Takes tensors by name and knows in the end which were never asked for."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors, self.taken = tensors, set[str]()

    def take(self, name: str, rule: Rule) -> np.ndarray:
        if name not in self.tensors:
            raise WeightsError(f"the checkpoint has no tensor {name!r}: is config.json that of these weights?")
        self.taken.add(name)
        tensor = np.asarray(self.tensors[name])
        try:
            return rule.ours(tensor)
        except ValueError:
            raise WeightsError(
                f"tensor {name!r} has shape {tensor.shape}, which config.json contradicts: is it that of these weights?"
            ) from None

    def take_copy(self, name: str, of: str) -> None:
        """Passes over a tensor that repeats another one: tied checkpoints are published with their output matrix and without it."""
        if name in self.tensors:
            if not np.array_equal(self.tensors[name], self.tensors[of]):
                raise WeightsError(f"tensor {name!r} differs from {of!r}, but config.json ties them: is it that of these weights?")
            self.taken.add(name)

    def finish(self) -> None:
        left = sorted(set(self.tensors) - self.taken)
        if left:
            raise WeightsError(f"the checkpoint has {len(left)} tensors that the model has no place for, the first is {left[0]!r}")


def read_config(path: pathlib.Path) -> dict:
    """A config.json; WeightsError where it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist: a checkpoint folder holds config.json and model.safetensors") from None
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of one .safetensors file."""
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: a checkpoint folder holds config.json and model.safetensors")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a readable .safetensors file ({error}): fetch it again") from error


def neo_model(values: dict) -> config.Model:
    """Our model settings from a NEO checkpoint's config.json."""
    try:
        llm, vision = values["llm_config"], values["vision_config"]
        return config.Model(
            base_layers=llm["num_hidden_layers"] - llm["extra_num_layers"],
            pre_buffer_layers=llm["extra_num_layers"],
            rope_theta_hw=llm["rope_theta_hw"],
            patch_channels=vision["hidden_size"],
            patch_rope_theta=vision["rope_theta_vision"],
            **_language_model(llm),
        )
    except KeyError as error:
        raise WeightsError(f"config.json has no field {error.args[0]!r}: is it a NEO checkpoint's?") from None


def qwen3_model(values: dict, pre_buffer_layers: int, patch_channels: int) -> config.Model:
    """Settings of the NEO that a Qwen3 checkpoint's config.json becomes."""
    try:
        fields = _language_model(values)
        return config.Model(
            base_layers=values["num_hidden_layers"], pre_buffer_layers=pre_buffer_layers, patch_channels=patch_channels, **fields
        )
    except KeyError as error:
        raise WeightsError(f"config.json has no field {error.args[0]!r}: is it a Qwen3 checkpoint's?") from None


def _language_model(llm: dict) -> dict:
    return {
        "hidden": llm["hidden_size"],
        "mlp": llm["intermediate_size"],
        "heads": llm["num_attention_heads"],
        "kv_heads": llm["num_key_value_heads"],
        "head_dim": llm["head_dim"],
        "vocabulary": llm["vocab_size"],
        "tied": llm["tie_word_embeddings"],
        "rope_theta": llm["rope_theta"],
        "norm_epsilon": llm["rms_norm_eps"],
    }
