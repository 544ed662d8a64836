"""The parameters a run begins with, from a downloaded checkpoint folder: a Qwen3, which becomes a NEO by the official conversion, or a NEO."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import numpy as np
from jax.sharding import NamedSharding

from neo_jax import config
from neo_jax.interop.huggingface import (
    WeightsError,
    neo_model,
    neo_parameters,
    qwen3_model,
    qwen3_parameters,
    read_config,
    read_tensors,
)
from neo_jax.model.backbone import Parameters, abstract
from neo_jax.model.initialise import neo_from_qwen3


def initial_parameters(settings: config.Config) -> Parameters:
    """Parameters of the first phase's architecture from the folder `run.initial`, on the mesh that is set.

    Raises:
      WeightsError: the folder is no Qwen3 or NEO checkpoint, or its shape is not that of `model`.
    """
    folder, architecture, model = pathlib.Path(settings.run.initial), settings.phases[0].architecture, settings.model
    values = read_config(folder / "config.json")
    kind = values.get("model_type")
    if kind == "qwen3":
        _check_shape(folder, model, qwen3_model(values, model.pre_buffer_layers, model.patch_channels))
        parameters = _put(model, "qwen3", qwen3_parameters(model, read_folder(folder)))
        return parameters if architecture == "qwen3" else neo_from_qwen3(model, parameters, settings.run.seed)
    if kind == "neo_chat" and architecture == "neo":
        _check_shape(folder, model, neo_model(values))
        return _put(model, "neo", neo_parameters(model, read_folder(folder)))
    raise WeightsError(
        f"{folder}/config.json has model_type {kind!r}; a first phase of architecture {architecture!r} starts from a qwen3, or neo from a neo_chat"
    )


def read_folder(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint: model.safetensors, or the files that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_tensors(folder / "model.safetensors")
    files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return {name: tensor for file in files for name, tensor in read_tensors(folder / file).items()}


def _check_shape(folder: pathlib.Path, wanted: config.Model, found: config.Model) -> None:
    differing = [
        f"model.{field.name} is {getattr(wanted, field.name)}, the checkpoint has {getattr(found, field.name)}"
        for field in dataclasses.fields(config.Model)
        if field.name not in ("rope_theta_hw", "patch_rope_theta", "initializer_range")
        and getattr(wanted, field.name) != getattr(found, field.name)
    ]
    if differing:
        raise WeightsError(f"{folder} does not fit the configuration: " + "; ".join(differing))


def _put(model: config.Model, architecture: str, arrays: dict[str, np.ndarray]) -> Parameters:
    """On the mesh, in float32, each with its sharding."""
    shapes = abstract(model, architecture)
    parameters: Parameters = {}
    for name, shape in shapes.items():
        array = arrays.pop(name)
        if array.shape != shape.shape:
            raise WeightsError(
                f"parameter {name} has shape {array.shape}, the model needs {shape.shape}: is config.json that of these weights?"
            )
        sharding = NamedSharding(jax.sharding.get_mesh(), shape.sharding.spec)
        parameters[name] = _place(array, sharding)
    return parameters


def _place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    # Not device_put: with several processes it would send the whole array around, to see that all have the same.
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part].astype(np.float32))
