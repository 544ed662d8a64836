"""Initial parameters of a run, from a downloaded checkpoint folder: a NEO, or a Qwen3, which the official conversion makes into a NEO."""

from __future__ import annotations

import dataclasses
import pathlib

from neo_jax import config
from neo_jax.interop.config_fields import neo_model, qwen3_model, read_config
from neo_jax.interop.errors import WeightsError
from neo_jax.interop.load import load
from neo_jax.interop.tensors import open_folder
from neo_jax.model.backbone import Parameters
from neo_jax.model.initialise import neo_from_qwen3

# Fields that are not compared: those of the parts that a Qwen3 lacks, and the scale of random parameters.
NEO_ONLY = ("pre_buffer_layers", "patch_channels", "rope_theta_hw", "patch_rope_theta")
RANDOM_ONLY = ("initializer_range",)


def initial_parameters(settings: config.Config) -> Parameters:
    """Returns parameters of the first phase's architecture, read from the folder `run.initial`, on the current mesh, as they are stored.

    Raises:
      WeightsError: the folder is not a Qwen3 or NEO checkpoint, or its model differs from the configuration's.
    """
    folder, architecture, model = pathlib.Path(settings.run.initial), settings.phases[0].architecture, settings.model
    path = folder / "config.json"
    values = read_config(path)
    kind = values.get("model_type")
    if kind == "qwen3":
        found = qwen3_model(values, path, model.pre_buffer_layers, model.patch_channels)
        _check_model(path, model, found, NEO_ONLY + RANDOM_ONLY)
        parameters = _load(settings, folder, "qwen3")
        return parameters if architecture == "qwen3" else neo_from_qwen3(model, parameters, settings.run.seed)
    if kind == "neo_chat" and architecture == "neo":
        _check_model(path, model, neo_model(values, path), RANDOM_ONLY)
        return _load(settings, folder, "neo")
    raise WeightsError(
        f"{path} has model_type {kind!r}; a first phase of architecture {architecture!r} starts from a qwen3, or neo from a neo_chat"
    )


def _load(settings: config.Config, folder: pathlib.Path, architecture: str) -> Parameters:
    tensors = open_folder(folder)
    try:
        return load(settings.model, architecture, tensors, settings.optimizer.parameter_dtype)
    except WeightsError as error:
        raise WeightsError(f"{folder}: {error}") from None


def _check_model(path: pathlib.Path, wanted: config.Model, found: config.Model, ignored: tuple[str, ...]) -> None:
    """Raises WeightsError if the checkpoint's model differs from the configuration's in a field that is not in `ignored`."""
    differing = [
        f"model.{field.name} is {getattr(wanted, field.name)}, the checkpoint has {getattr(found, field.name)}"
        for field in dataclasses.fields(config.Model)
        if field.name not in ignored and getattr(wanted, field.name) != getattr(found, field.name)
    ]
    if differing:
        raise WeightsError(f"{path} does not fit the configuration: {'; '.join(differing)}; set these to the checkpoint's")
