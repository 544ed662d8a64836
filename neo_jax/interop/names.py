"""The official tensors of a Qwen3 or NEO checkpoint, and how each converts to a parameter of this project and back.

One table serves both directions: an entry gives name and shape of an official tensor (output dimension first, as in torch), the parameter that it
becomes, its layer where layers are stacked, and the two conversions of its layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from neo_jax import config
from neo_jax.interop.config_fields import PATCH_SIDE

MERGED_SIDE = 2  # patches along a side of a visual token
NEO_PREFIX = "language_model."  # of the language model's tensors in a NEO

Convert = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The conversion of an official array to ours, and its inverse. Both return views where they can."""

    ours: Convert
    official: Convert


@dataclasses.dataclass(frozen=True)
class Entry:
    """One official tensor.

    Attributes:
      name: official name.
      shape: shape of the official tensor.
      layout: how it converts to `parameter`, or to a layer of it.
      parameter: name of our parameter.
      layer: index along the first axis of a parameter of stacked layers; None: the tensor is the whole parameter.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    parameter: str
    layer: int | None = None


Table = tuple[Entry, ...]

SAME = Layout(lambda x: x, lambda x: x)
TRANSPOSED = Layout(lambda x: x.T, lambda x: x.T)  # [out, in] <-> [in, out]
CONVOLUTION = Layout(
    lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)  # [out, in, rows, columns] <-> [rows, columns, in, out]


def qwen3_table(model: config.Model) -> Table:
    """Returns the tensors of a Qwen3 with this model's base layers (architecture "qwen3"), in their official order."""
    return _language(model, "", spatial=False, pre_buffer_layers=0)


def neo_table(model: config.Model) -> Table:
    """Returns the tensors of a NEO, in their official order: patch embedding, then the language model, pre-buffer first."""
    return _vision(model) + _language(model, NEO_PREFIX, spatial=True, pre_buffer_layers=model.pre_buffer_layers)


def table_of(model: config.Model, architecture: str) -> Table:
    return neo_table(model) if architecture == "neo" else qwen3_table(model)


def copy_of_tied(model: config.Model, architecture: str) -> tuple[str, str] | None:
    """Returns the name of the output matrix that a tied checkpoint may hold as well, and that of the embedding which it must equal."""
    prefix = NEO_PREFIX if architecture == "neo" else ""
    return (f"{prefix}lm_head.weight", f"{prefix}model.embed_tokens.weight") if model.tied else None


def _language(model: config.Model, prefix: str, spatial: bool, pre_buffer_layers: int) -> Table:
    words = (model.vocabulary, model.hidden)
    entries = [Entry(f"{prefix}model.embed_tokens.weight", words, SAME, "embedding")]
    for number in range(pre_buffer_layers + model.base_layers):
        in_base = number >= pre_buffer_layers
        stack, layer = ("base", number - pre_buffer_layers) if in_base else ("pre_buffer", number)
        for name, shape, layout, parameter in _layer(model, spatial):
            entries.append(Entry(f"{prefix}model.layers.{number}.{name}.weight", shape, layout, f"{stack}.{parameter}", layer))
    entries.append(Entry(f"{prefix}model.norm.weight", (model.hidden,), SAME, "final_norm"))
    if not model.tied:
        entries.append(Entry(f"{prefix}lm_head.weight", words, SAME, "output"))
    return tuple(entries)


def _layer(model: config.Model, spatial: bool) -> list[tuple[str, tuple[int, ...], Layout, str]]:
    """Returns name within the layer, shape, layout and parameter of each tensor of a layer."""
    d, f, h = model.hidden, model.mlp, model.head_dim
    queries, keys = model.heads * h, model.kv_heads * h
    heads = Layout(
        lambda x: x.reshape(-1, h, d).transpose(2, 0, 1), lambda x: x.transpose(1, 2, 0).reshape(-1, d)
    )  # [N H, D] <-> [D, N, H]
    of_heads = Layout(lambda x: x.T.reshape(-1, h, d), lambda x: x.reshape(-1, d).T)  # [D, N H] <-> [N, H, D]
    tensors = [
        ("input_layernorm", (d,), SAME, "attention_norm"),
        ("post_attention_layernorm", (d,), SAME, "mlp_norm"),
        ("self_attn.q_proj", (queries, d), heads, "attention.q"),
        ("self_attn.k_proj", (keys, d), heads, "attention.k"),
        ("self_attn.v_proj", (keys, d), heads, "attention.v"),
        ("self_attn.o_proj", (d, queries), of_heads, "attention.o"),
        ("self_attn.q_norm", (h,), SAME, "attention.q_norm"),
        ("self_attn.k_norm", (h,), SAME, "attention.k_norm"),
        ("mlp.gate_proj", (f, d), TRANSPOSED, "mlp.gate"),
        ("mlp.up_proj", (f, d), TRANSPOSED, "mlp.up"),
        ("mlp.down_proj", (d, f), TRANSPOSED, "mlp.down"),
    ]
    if spatial:
        tensors += [
            ("self_attn.q_proj_hw", (queries, d), heads, "attention.q_hw"),
            ("self_attn.k_proj_hw", (keys, d), heads, "attention.k_hw"),
        ]
        tensors += [(f"self_attn.{x}_norm_{part}", (h // 2,), SAME, f"attention.{x}_norm_{part}") for x in "qk" for part in "hw"]
    return tensors


def _vision(model: config.Model) -> Table:
    channels, embeddings = model.patch_channels, "vision_model.embeddings"
    patch, merge = (channels, 3, PATCH_SIDE, PATCH_SIDE), (model.hidden, channels, MERGED_SIDE, MERGED_SIDE)
    return (
        Entry(f"{embeddings}.patch_embedding.weight", patch, CONVOLUTION, "patch_embedding.patch"),
        Entry(f"{embeddings}.patch_embedding.bias", patch[:1], SAME, "patch_embedding.patch_bias"),
        Entry(f"{embeddings}.dense_embedding.weight", merge, CONVOLUTION, "patch_embedding.merge"),
        Entry(f"{embeddings}.dense_embedding.bias", merge[:1], SAME, "patch_embedding.merge_bias"),
    )
