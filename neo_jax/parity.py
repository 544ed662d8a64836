"""Compares this implementation with recorded outputs of the official one: `python -m neo_jax.parity FOLDER`.

The folder holds config.json, model.safetensors and batch.npz, and optionally grads.npz and greedy.npz; tests/golden/README.md describes
them. Everything runs in float32 at the highest matmul precision. Prints the largest error of each quantity beside its tolerance; exits with 1 if one
exceeds its tolerance, with 2 if the folder cannot be read.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import sys
import zipfile
from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.batch import Batch, stack
from data_pipelines.loading import rows
from data_pipelines.loading.prompts import prompt_inputs
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, Document, PhaseSettings
from neo_jax import config
from neo_jax.attention.api import UnsupportedAttentionError
from neo_jax.config.fields import ConfigError, OneOf
from neo_jax.config.flags import Command, read_flags
from neo_jax.config.phase import ATTENTION
from neo_jax.inference.generate import greedy
from neo_jax.interop.config_fields import neo_model, read_config
from neo_jax.interop.errors import WeightsError
from neo_jax.interop.load import load, to_ours
from neo_jax.interop.names import neo_table
from neo_jax.interop.tensors import open_file
from neo_jax.model.backbone import Parameters, build
from neo_jax.model.computation import Computation
from neo_jax.model.patch_embedding import normalise
from neo_jax.sharding import make_mesh, to_devices
from neo_jax.training.loss import token_losses

# Errors are absolute for activations, relative for the loss, relative to the largest element for gradients; others count differing elements.
TOLERANCES = {"vision": 2e-4, "hidden": 2e-4, "logits": 2e-4, "loss": 1e-6, "gradient": 1e-4}
RECORDED = (
    *("input_ids", "t_index", "labels", "loss_weight", "seq_boundaries", "grid_hw", "patches", "mask_lo", "mask_hi"),
    *("vision_embeds", "hidden", "logits", "loss"),
)
GRADIENT_FLOOR = 1e-8  # smallest divisor: gradients that are zero everywhere are compared by absolute error


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The error of one quantity, and the largest error that passes."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


def compare(folder: pathlib.Path, attention: str = "auto") -> list[Comparison]:
    """Runs every comparison for which the folder has recorded outputs.

    Args:
      attention: attention implementation, as in attention.api.interval_attention; greedy decoding always uses "auto".

    Raises:
      UnsupportedAttentionError: the attention implementation cannot run on this device.
      WeightsError: a file of the folder is missing, damaged or has other contents than expected.
    """
    values = read_config(folder / "config.json")
    model = neo_model(values, folder / "config.json")
    tensors = open_file(folder / "model.safetensors")
    recorded = _load(folder / "batch.npz")
    if missing := [name for name in RECORDED if name not in recorded]:
        raise WeightsError(f"{folder / 'batch.npz'} has no array {missing[0]!r}: it holds {', '.join(RECORDED)}")
    batch, layout_errors = _batch(recorded, values["img_context_token_id"])
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        parameters = load(model, "neo", tensors)
        row = to_devices(batch)
        forward = functools.partial(_forward, model, attention)
        if (folder / "grads.npz").exists():
            expected = to_ours(neo_table(model), _load(folder / "grads.npz"))  # gradients have their parameters' names and shapes
            (loss, outputs), gradients = jax.jit(jax.value_and_grad(forward, has_aux=True))(parameters, row)
            results = layout_errors + _activations(loss, outputs, recorded) + _gradients(gradients, expected)
        else:
            loss, outputs = jax.jit(forward)(parameters, row)
            results = layout_errors + _activations(loss, outputs, recorded)
        if (folder / "greedy.npz").exists():
            results.append(_greedy(model, parameters, _load(folder / "greedy.npz"), values))
    return results


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: a parity folder holds config.json, model.safetensors and batch.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not a readable .npz file ({error})") from error


def visual_tokens(patches: np.ndarray, grids: np.ndarray) -> np.ndarray:
    """Converts official patches [N, 768] (channel, row, column; row-major within an image) to visual tokens [N / 4, 3072] of this project.

    Args:
      grids: [I, 2] rows and columns of each image in 16-pixel patches.
    """
    tokens, start = [np.zeros((0, VISUAL_TOKEN_BYTES), patches.dtype)], 0
    for height, width in grids:
        image = patches[start : start + height * width].reshape(height // 2, 2, width // 2, 2, 3, 16, 16)
        tokens.append(image.transpose(0, 2, 1, 5, 3, 6, 4).reshape(-1, VISUAL_TOKEN_BYTES))
        start += height * width
    return np.concatenate(tokens)


def _batch(recorded: dict[str, np.ndarray], image_token: int) -> tuple[Batch, list[Comparison]]:
    """Packs the recorded row with the code of training, with recorded patches as its pixels; returns it, and comparisons of its layout."""
    ids, labels, bounds = recorded["input_ids"], recorded["labels"], recorded["seq_boundaries"]
    grids = recorded["grid_hw"] // 2
    documents, image = [], 0
    for start, end in itertools.pairwise(bounds):
        visual, first = int((ids[start:end] == image_token).sum()), image
        count = visual
        while count > 0:
            count -= int(np.prod(grids[image]))
            image += 1
        empty = np.zeros((visual, VISUAL_TOKEN_BYTES), np.uint8)
        documents.append(Document(ids[start:end], labels[start:end], grids[first:image], empty))
    length, budget = len(ids), len(recorded["patches"]) // 4
    row = rows.pack(documents, [0] * len(documents), _phase(length, budget, len(grids), len(documents)), image_token)
    row = row._replace(inputs=row.inputs._replace(visual=visual_tokens(recorded["patches"], recorded["grid_hw"])))
    weights = np.where(labels[1:] == NO_LABEL, 0, recorded["loss_weight"][1:])
    exact = {
        "t index": row.inputs.positions[:, 0] != recorded["t_index"],
        "lo": row.inputs.intervals.lo != recorded["mask_lo"],
        "hi": row.inputs.intervals.hi != recorded["mask_hi"],
        "loss weights": np.append(row.loss_weights[:-1] != weights, row.loss_weights[-1] != 0),
    }
    return stack([row]), [Comparison(name, float(wrong.sum()), 0) for name, wrong in exact.items()]


def _phase(context: int, visual: int, images: int, segments: int) -> PhaseSettings:
    return PhaseSettings(
        name="parity", rows=1, context=context, visual_tokens=visual, images=images, segments=segments, min_pixels=1024, max_pixels=1 << 30,
        frames=0, frames_per_second=(1.0, 1.0), frame_pixels=1 << 30, mixture={}, loss_weighting="square",
    )  # fmt: skip


def _forward(model: config.Model, attention: str, parameters: Parameters, batch: Batch) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the loss, and of the only row: visual tokens [V, D], hidden states after each layer [layers, L, D], logits [L, vocabulary]."""
    backbone, inputs, computation = build(model, "neo", parameters), batch.inputs, Computation(attention=attention)
    states = backbone.layer_states(inputs, computation)
    vision = states[0, :, :0]
    if inputs.visual.shape[1]:
        vision = backbone.patch_embedding(normalise(inputs.visual), inputs.visual_position, jnp.dtype("float32"))
    losses = token_losses(backbone.apply_final_norm(states[-1]), backbone.output_matrix(), batch.targets)
    loss = (losses * batch.loss_weights).sum() / batch.loss_weights.sum()
    return loss, (vision[0], states[:, 0], backbone.logits(states[-1])[0])


def _activations(loss: jax.Array, outputs: tuple[jax.Array, ...], recorded: dict[str, np.ndarray]) -> list[Comparison]:
    results = []
    for name, output, key in zip(("vision", "hidden", "logits"), outputs, ("vision_embeds", "hidden", "logits"), strict=True):
        error = np.abs(np.asarray(output) - recorded[key]).max(initial=0)
        results.append(Comparison(name, float(error), TOLERANCES[name]))
    expected = float(recorded["loss"])
    return [*results, Comparison("loss", abs(float(loss) - expected) / abs(expected), TOLERANCES["loss"])]


def _gradients(gradients: Parameters, expected: dict[str, np.ndarray]) -> list[Comparison]:
    results = []
    for name, value in expected.items():
        error = np.abs(np.asarray(gradients[name]) - value).max() / max(np.abs(value).max(), GRADIENT_FLOOR)
        results.append(Comparison(f"gradient {name}", float(error), TOLERANCES["gradient"]))
    return results


def _greedy(model: config.Model, parameters: Parameters, recorded: dict[str, np.ndarray], values: dict) -> Comparison:
    image_tokens = tuple(values[f"img_{part}_token_id"] for part in ("start", "end", "context"))
    documents, expected = [], []
    for i in range(sum(name.startswith("prompt_") for name in recorded)):
        grids, prompt = recorded[f"grid_{i}"], recorded[f"prompt_{i}"]
        pixels = visual_tokens(recorded[f"patches_{i}"], grids)
        documents.append(Document(prompt, np.full_like(prompt, NO_LABEL), grids // 2, pixels))
        expected.append(recorded[f"tokens_{i}"])
    length, budget = (max(map(len, arrays)) for arrays in ([d.tokens for d in documents], [d.visual for d in documents]))
    prompts = to_devices(prompt_inputs(documents, length, budget, values["img_context_token_id"]))
    tokens = greedy(model, Computation(), parameters, prompts, len(expected[0]), -1, image_tokens)
    wrong = int((np.asarray(tokens) != np.stack(expected)).sum())
    return Comparison("greedy tokens that differ", wrong, 0)


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags besides the folder.

    Attributes:
      attention: attention implementation, one of auto, chunked, tpu, hopper; auto chooses it by device.
    """

    attention: Annotated[str, OneOf(ATTENTION)] = "auto"


UNREADABLE = 2  # the exit code where the folder or the command line cannot be read
COMMAND = Command(
    "neo_jax.parity",
    "Compares this implementation with recorded outputs of the official one, in float32 at the highest matmul precision; prints the largest error "
    "of each quantity beside its tolerance.",
    "tests/golden/model_tied",
    {0: "all within tolerance", 1: "an error beyond its tolerance", UNREADABLE: "the folder or the command line cannot be read"},
    operands="FOLDER",
)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        flags, folders = read_flags(Flags, sys.argv[1:] if arguments is None else arguments, COMMAND)
        if len(folders) != 1:
            raise ConfigError([f"{len(folders)} folders are given, must be one: write {COMMAND.example}"])
    except ConfigError as error:
        print(f"parity: {error}", file=sys.stderr)
        return UNREADABLE
    try:
        results = compare(pathlib.Path(folders[0]).expanduser(), flags.attention)
    except (WeightsError, UnsupportedAttentionError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return UNREADABLE
    for result in results:
        print(f"{'ok  ' if result.passed else 'FAIL'}  {result.name:<44} {result.error:10.3g}  (at most {result.tolerance:g})")
    failed = [result.name for result in results if not result.passed]
    print(f"{len(results) - len(failed)} of {len(results)} within tolerance" + (f"; beyond it: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
