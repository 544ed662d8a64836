"""What an exported folder holds besides its tensors: config.json, tokenizer, settings of preprocessing and generation, the model card."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from data_pipelines.schema import DataError
from data_pipelines.text.special_tokens import write_with_special_tokens
from data_pipelines.text.tokenizers import load_tokenizer
from neo_jax import config
from neo_jax.interop.config_fields import read_config
from neo_jax.interop.errors import WeightsError
from neo_jax.interop.names import table_of
from neo_jax.interop.small_files import INITIAL, small_files
from neo_jax.interop.write import TensorSpec
from neo_jax.interop.written_config import written_config
from neo_jax.places import FolderPlace, RunPlace
from neo_jax.publishing.card import model_card

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels, as the patch embedding normalises them
# Beside a tokenizer.json, files that other libraries read with it.
TOKENIZER_COMPANIONS = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json"),
)

Files = dict[str, bytes | pathlib.Path]


def specs_of(place: RunPlace | FolderPlace, dtype: str | None) -> list[TensorSpec]:
    """Returns the official tensors of a place in the order in which they are written. `dtype`: type of all; None: that which each has."""
    if isinstance(place, FolderPlace):
        return [TensorSpec(name, tensor.shape, dtype or tensor.dtype) for name, tensor in place.tensors.items()]
    kept = dtype or place.settings.optimizer.parameter_dtype
    return [TensorSpec(entry.name, entry.shape, kept) for entry in table_of(place.model, place.architecture)]


def files_of_run(place: RunPlace, dtype: str, scratch: pathlib.Path) -> Files:
    """Returns the small files of a run's export.

    Args:
      dtype: type of its tensors.
      scratch: folder for files that are made.

    Raises:
      WeightsError: the tokenizer cannot be read, or the model is a variant that the format has no fields for.
    """
    if variant := place.model.variant():
        raise WeightsError(
            f"{place.text} trained a variant of the model ({', '.join(variant)}) that the published format cannot say, and that other programs "
            "would read as NEO-ov: such a run can be evaluated and continued here, not exported"
        )
    files: Files = {}
    initial = place.found.run / INITIAL
    own = {"config.json", "preprocessor_config.json", "README.md", "tokenizer.json", "tokenizer.model", *TOKENIZER_COMPANIONS}
    files |= {name: path for name, path in small_files(initial).items() if name not in own}
    special = _tokenizer(place.settings.tokenizer, scratch, files)
    original = read_config(initial / "config.json") if (initial / "config.json").is_file() else None
    values = written_config(place.model, place.architecture, dtype, special, original)
    files["config.json"] = _json(values)
    if place.architecture == "neo":
        files["preprocessor_config.json"] = _json(_preprocessing(place.phase))
    files.setdefault(
        "generation_config.json", _json({"do_sample": False, "eos_token_id": special["<|im_end|>"], "pad_token_id": special["<|im_end|>"]})
    )
    files["README.md"] = model_card(place, dtype).encode()
    return files


def _tokenizer(settings: config.Tokenizer, scratch: pathlib.Path, files: Files) -> Mapping[str, int]:
    """Adds the tokenizer's files; returns the ids of its special tokens."""
    try:
        tokenizer = load_tokenizer(settings.path, settings.add_special_tokens)
        file = write_with_special_tokens(settings.path, scratch) if settings.add_special_tokens else pathlib.Path(settings.path)
    except DataError as error:
        raise WeightsError(f"{error}: the run's tokenizer goes along with its parameters; put it back where the run had it") from None
    file = file / "tokenizer.json" if file.is_dir() else file
    files["tokenizer.model" if file.suffix == ".model" else "tokenizer.json"] = file
    folder = pathlib.Path(settings.path)
    folder = folder if folder.is_dir() else folder.parent
    if file.suffix != ".model":
        files |= {name: folder / name for name in TOKENIZER_COMPANIONS if (folder / name).is_file()}
    return tokenizer.special


def _preprocessing(phase: config.Phase) -> dict[str, Any]:
    return {
        "image_processor_type": "neo_chat",
        "patch_size": 16,
        "merge_size": 2,
        "min_pixels": phase.min_pixels,
        "max_pixels": phase.max_pixels,
        "image_mean": list(MEAN),
        "image_std": list(DEVIATION),
        "resample": "bicubic",
        "frames": phase.frames,
        "frame_pixels": phase.frame_pixels,
    }


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
