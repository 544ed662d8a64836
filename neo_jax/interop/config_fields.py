"""Reads the config.json of a published checkpoint and checks that this implementation computes the same model.

Allow-lists for each section of the file sort its fields into three kinds. Fields that determine the model's shape are read. Fields that would change
what the layers compute must have the value that is implemented here. Fields without effect on the layers are ignored. Any other field is an error.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from neo_jax import config
from neo_jax.interop.errors import WeightsError

PATCH_SIDE = 16  # pixels, of the patch embedding's first convolution
DOWNSAMPLE_RATIO = 0.5  # of its second: 2 x 2 patches become one visual token

# Every transformers configuration may have these: they describe files, training or text generation.
WITHOUT_EFFECT = {
    "architectures", "auto_map", "name_or_path", "_name_or_path", "_commit_hash", "dtype", "torch_dtype", "transformers_version",
    "tokenizer_class", "initializer_range", "use_cache", "gradient_checkpointing", "output_attentions", "output_hidden_states",
    "return_dict", "use_return_dict", "is_decoder", "_attn_implementation", "_attn_implementation_autoset", "attn_implementation",
    "use_flash_attn", "torchscript", "use_bfloat16", "tf_legacy_loss", "finetuning_task", "id2label", "label2id", "problem_type",
    "task_specific_params", "prefix", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "length_penalty", "max_length", "min_length",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values",
    "repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p", "unsloth_fixed",
    "unsloth_version",
}  # fmt: skip
LANGUAGE_WITHOUT_EFFECT = WITHOUT_EFFECT | {"max_position_embeddings", "max_position_embeddings_hw"}
VISION_WITHOUT_EFFECT = WITHOUT_EFFECT | {"model_type", "max_position_embeddings_vision", "min_pixels", "max_pixels"}
# Token ids come from the tokenizer, image sizes from the configuration; whether the output matrix is tied, from llm_config and the tensors.
NEO_WITHOUT_EFFECT = WITHOUT_EFFECT | {
    "model_type", "img_start_token_id", "img_end_token_id", "img_context_token_id", "template", "tie_word_embeddings", "use_llm_lora",
    "use_backbone_lora", "dynamic_image_size", "force_image_size", "image_size", "min_dynamic_patch", "max_dynamic_patch",
    "use_thumbnail", "min_pixels", "max_pixels",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Section:
    """An object of a config.json.

    Attributes:
      path: the file, for messages.
      prefix: text before field names in messages: "" or "llm_config.".
      values: the fields.
    """

    path: pathlib.Path
    prefix: str
    values: Mapping[str, Any]

    def error(self, field: str, sentence: str) -> WeightsError:
        return WeightsError(f"{self.path}: field {self.prefix}{field} {sentence}")

    def whole(self, field: str, least: int = 1) -> int:
        value = self._required(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(field, f"is {value!r}, must be a whole number of at least {least}")
        return value

    def number(self, field: str) -> float:
        value = self._required(field)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.error(field, f"is {value!r}, must be a number above 0")
        return float(value)

    def boolean(self, field: str) -> bool:
        value = self._required(field)
        if not isinstance(value, bool):
            raise self.error(field, f"is {value!r}, must be true or false")
        return value

    def section(self, field: str) -> Section:
        value = self._required(field)
        if not isinstance(value, Mapping):
            raise self.error(field, f"is {value!r}, must be an object")
        return Section(self.path, f"{self.prefix}{field}.", value)

    def _required(self, field: str) -> Any:
        if field not in self.values:
            raise self.error(field, "is missing: is this the config.json of a Qwen3 or NEO checkpoint?")
        return self.values[field]

    def check(self, read: set[str], fixed: Mapping[str, Fixed], without_effect: set[str]) -> None:
        """Raises WeightsError for a field whose value is not implemented here, and for unknown fields.

        Args:
          read: fields that are read.
          fixed: rules for fields that must have an implemented value.
          without_effect: fields that are ignored.
        """
        for field, rule in fixed.items():
            if self.values.get(field) is not None and not rule.fits(self.values[field]):
                raise self.error(field, f"is {_shown(self.values[field])}: {rule.advice}")
        if unknown := sorted(set(self.values) - read - set(fixed) - without_effect):
            names = ", ".join(self.prefix + field for field in unknown)
            one = len(unknown) == 1
            raise WeightsError(
                f"{self.path}: field{'' if one else 's'} {names} of config.json {'is' if one else 'are'} not known; "
                f"if {'it does' if one else 'they do'} not change the mathematics, remove {'it' if one else 'them'}"
            )


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Rule for a field that must have an implemented value. A missing or null field has its default, which is implemented."""

    fits: Callable[[Any], bool]
    advice: str


def _is(*accepted: object) -> Callable[[Any], bool]:
    # In Python False == 0 and True == 1; in a config.json they are different values.
    return lambda value: any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in accepted)


QUANTIZED = Fixed(
    lambda value: value == {},
    "quantized weights are not read; use the checkpoint that was published in bfloat16, or convert this one to bfloat16",
)
NO_SUCH_PART = Fixed(lambda value: not value, "the model has no such part here; use a checkpoint without")
# Every transformers configuration may have these too.
FIXED = {
    **dict.fromkeys(("quantization_config", "quantization", "compression_config"), QUANTIZED),
    **dict.fromkeys(("add_cross_attention", "chunk_size_feed_forward", "cross_attention_hidden_size", "is_encoder_decoder"), NO_SUCH_PART),
    **dict.fromkeys(("pruned_heads", "tie_encoder_decoder"), NO_SUCH_PART),
}
NO_BIAS = Fixed(_is(False), "layers with biases are not computed here; use a Qwen3 without them")
LANGUAGE_FIXED = FIXED | {
    "model_type": Fixed(_is("qwen3"), "the language model is a Qwen3 here"),
    "hidden_act": Fixed(_is("silu", "swish"), "the MLP computes silu alone; use a checkpoint with hidden_act silu"),
    "attention_bias": NO_BIAS,
    "mlp_bias": NO_BIAS,
    "attention_dropout": Fixed(_is(0), "no dropout is computed here; set it to 0 to train without"),
    "partial_rotary_factor": Fixed(_is(1), "all channels of a head are rotated here; use a checkpoint that was trained so"),
}
VISION_FIXED = FIXED | {
    "patch_size": Fixed(
        _is(PATCH_SIDE), f"patches have {PATCH_SIDE} x {PATCH_SIDE} pixels here; use a checkpoint with patch_size {PATCH_SIDE}"
    ),
    "downsample_ratio": Fixed(
        _is(DOWNSAMPLE_RATIO), f"2 x 2 patches become one visual token here; use a checkpoint with downsample_ratio {DOWNSAMPLE_RATIO}"
    ),
    "num_channels": Fixed(_is(3), "images have 3 channels here; use a checkpoint with num_channels 3"),
}
WINDOW_FIELDS = {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}
ROPE_FIELDS = {"rope_theta", "rope_scaling", "rope_parameters"}
LANGUAGE_READ = {
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "num_hidden_layers"),
    *("tie_word_embeddings", "rms_norm_eps"),
    *WINDOW_FIELDS,
    *ROPE_FIELDS,
}


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads a config.json. Raises WeightsError if it is missing, unreadable or not a JSON object."""
    values = read_json(path, "a checkpoint folder holds config.json and model.safetensors")
    if not isinstance(values, dict):
        raise WeightsError(f"{path} holds {type(values).__name__}, not a JSON object: is it the config.json of a checkpoint?")
    return values


def read_json(path: pathlib.Path, expected: str) -> Any:
    """Reads a JSON file of a checkpoint. Raises WeightsError; for a missing file, the message says what was `expected`."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(f"{path} does not exist: {expected}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}, line {error.lineno}: not JSON ({error.msg}); it may be cut short: fetch it again") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON ({error}): fetch it again") from None


def qwen3_model(values: Mapping[str, Any], path: pathlib.Path, pre_buffer_layers: int, patch_channels: int) -> config.Model:
    """Returns the model settings of the NEO that is made from a Qwen3 checkpoint.

    Args:
      values, path: content and path of its config.json.
      pre_buffer_layers, patch_channels: sizes of the parts that a Qwen3 lacks.

    Raises:
      WeightsError: a field is missing, unknown or of a wrong type, or requires something that is not implemented here.
    """
    section = Section(path, "", values)
    section.check(LANGUAGE_READ, LANGUAGE_FIXED, LANGUAGE_WITHOUT_EFFECT)
    return _model(
        section,
        base_layers=section.whole("num_hidden_layers"),
        pre_buffer_layers=pre_buffer_layers,
        patch_channels=patch_channels,
        tied=section.boolean("tie_word_embeddings"),
    )


def neo_model(values: Mapping[str, Any], path: pathlib.Path) -> config.Model:
    """Returns the model settings of a NEO checkpoint (model_type "neo_chat"). Arguments and errors are those of qwen3_model."""
    top = Section(path, "", values)
    fixed = FIXED | {field: VISION_FIXED[field] for field in ("patch_size", "downsample_ratio")}
    top.check(
        {"llm_config", "vision_config"},
        fixed,
        NEO_WITHOUT_EFFECT,
    )
    language, vision = top.section("llm_config"), top.section("vision_config")
    language.check(LANGUAGE_READ | {"extra_num_layers", "rope_theta_hw"}, LANGUAGE_FIXED, LANGUAGE_WITHOUT_EFFECT)
    vision.check({"hidden_size", "llm_hidden_size", "rope_theta_vision"}, VISION_FIXED, VISION_WITHOUT_EFFECT)
    layers, pre_buffer_layers = language.whole("num_hidden_layers"), language.whole("extra_num_layers", 0)
    if pre_buffer_layers >= layers:
        raise language.error("extra_num_layers", f"is {pre_buffer_layers}, but num_hidden_layers counts these too and is {layers}")
    if "llm_hidden_size" in vision.values and vision.whole("llm_hidden_size") != language.whole("hidden_size"):
        raise vision.error("llm_hidden_size", f"is {vision.values['llm_hidden_size']}, but llm_config.hidden_size is not")
    return _model(
        language,
        base_layers=layers - pre_buffer_layers,
        pre_buffer_layers=pre_buffer_layers,
        tied=(language if "tie_word_embeddings" in language.values else top).boolean("tie_word_embeddings"),
        rope_theta_hw=language.number("rope_theta_hw"),
        patch_channels=vision.whole("hidden_size"),
        patch_rope_theta=vision.number("rope_theta_vision"),
    )


def _model(language: Section, **others: Any) -> config.Model:
    _check_windows(language)
    model = config.Model(
        hidden=language.whole("hidden_size"),
        mlp=language.whole("intermediate_size"),
        heads=language.whole("num_attention_heads"),
        kv_heads=language.whole("num_key_value_heads"),
        head_dim=language.whole("head_dim"),
        vocabulary=language.whole("vocab_size"),
        rope_theta=_rope_theta(language),
        norm_epsilon=language.number("rms_norm_eps"),
        **others,
    )
    if problem := next(model.problems(), None):
        raise WeightsError(f"{language.path}: the model that it describes cannot be built: {problem[0]} {problem[1]}")
    return model


def _check_windows(language: Section) -> None:
    """Raises WeightsError if a layer has sliding-window attention. `sliding_window` alone does not decide it: perhaps no layer uses it."""
    values, layers = language.values, language.whole("num_hidden_layers")
    advice = "every layer attends to the whole document here; use a checkpoint without sliding windows"
    if (types := values.get("layer_types")) is not None:
        if not isinstance(types, list) or len(types) != layers:
            raise language.error("layer_types", f"must be a list of num_hidden_layers = {layers} names: is it that of these weights?")
        if other := [each for each in types if each != "full_attention"]:
            raise language.error("layer_types", f"has {_shown(other[0])}: {advice}")
    elif values.get("use_sliding_window") and values.get("sliding_window") is not None:
        first = values.get("max_window_layers")
        if not isinstance(first, int) or first < layers:
            raise language.error("use_sliding_window", f"is true with windows of {_shown(values['sliding_window'])} tokens: {advice}")


def _rope_theta(language: Section) -> float:
    """Returns the rotary base, from `rope_theta` or, since transformers 5, `rope_parameters`. Raises WeightsError for scaled frequencies."""
    thetas = {"rope_theta": language.number("rope_theta")} if language.values.get("rope_theta") is not None else {}
    for field in ("rope_scaling", "rope_parameters"):
        if language.values.get(field) is None:
            continue
        rope = language.section(field)
        kind = rope.values.get("rope_type", rope.values.get("type", "default"))
        if kind != "default":
            raise language.error(
                field,
                f"asks for {_shown(kind)} rotary frequencies, which are not computed here; start from the checkpoint as it was before its "
                f"context was extended, or, if these weights were not trained with it, {_without_scaling(field)}",
            )
        rope.check({"rope_type", "type", "rope_theta"}, {"partial_rotary_factor": LANGUAGE_FIXED["partial_rotary_factor"]}, set())
        if "rope_theta" in rope.values:
            thetas[f"{field}.rope_theta"] = rope.number("rope_theta")
    if len(set(thetas.values())) > 1:
        (first, theta), *_, (last, other) = thetas.items()
        raise language.error(
            first, f"is {theta:g}, but {language.prefix}{last} is {other:g}: keep the one that these weights were trained with"
        )
    return next(iter(thetas.values())) if thetas else language.number("rope_theta")


def _without_scaling(field: str) -> str:
    return (
        "set rope_scaling to null" if field == "rope_scaling" else "set its rope_type to default and remove its other fields but rope_theta"
    )


def _shown(value: object, max_characters: int = 80) -> str:
    text = json.dumps(value)
    return text if len(text) <= max_characters else text[:max_characters] + "..."
