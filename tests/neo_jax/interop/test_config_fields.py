"""config.json of a checkpoint: each field is applied, has the one value that is computed here, is without effect, or is refused by name."""

import copy
import json
import pathlib

import pytest

from neo_jax.interop.config_fields import neo_model, qwen3_model, read_config
from neo_jax.interop.errors import WeightsError

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
QWEN3 = json.loads((GOLDEN / "qwen3_init" / "qwen3" / "config.json").read_text())
NEO = json.loads((GOLDEN / "model_tied" / "config.json").read_text())
PATH = pathlib.Path("folder/config.json")
FULL = ["full_attention", "full_attention"]
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 1e6}
REMOVED = object()


def changed(values: dict, field: str, value: object) -> dict:
    """A copy in which the dotted `field` has another value, or is REMOVED."""
    values = copy.deepcopy(values)
    *sections, last = field.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    if value is REMOVED:
        del inner[last]
    else:
        inner[last] = value
    return values


def qwen3(values: dict):
    return qwen3_model(values, PATH, pre_buffer_layers=1, patch_channels=16)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_types", FULL),
        ("use_sliding_window", True),  # with sliding_window null
        ("rope_scaling", {"rope_type": "default"}),
        ("rope_scaling", {"type": "default"}),
        ("rope_parameters", DEFAULT_ROPE),
        ("rope_parameters", DEFAULT_ROPE | {"partial_rotary_factor": 1.0}),
        ("quantization_config", None),
        ("mlp_bias", False),
        ("torch_dtype", "bfloat16"),
        ("rope_scaling", REMOVED),
        ("attention_bias", REMOVED),
        ("pad_token_id", 1),
        ("pruned_heads", {}),
        ("unsloth_version", "2026.1"),
        ("add_cross_attention", False),
    ],
)
def test_a_qwen3_that_is_the_same_model(field, value):
    assert qwen3(changed(QWEN3, field, value)) == qwen3(QWEN3)


def test_windows_that_no_layer_uses_are_none():
    windows = {"use_sliding_window": True, "sliding_window": 512}
    assert qwen3(QWEN3 | windows | {"max_window_layers": 2}) == qwen3(QWEN3)
    with pytest.raises(WeightsError, match="windows of 512 tokens"):
        qwen3(QWEN3 | windows | {"max_window_layers": 1})


def test_rope_theta_of_transformers_5():
    values = changed(QWEN3, "rope_theta", REMOVED)
    assert qwen3(values | {"rope_parameters": DEFAULT_ROPE | {"rope_theta": 5e6}}).rope_theta == 5e6
    with pytest.raises(WeightsError, match=r"field rope_theta is missing"):
        qwen3(values)
    with pytest.raises(WeightsError, match=r"rope_theta is 1e\+06, but rope_parameters.rope_theta is 5e\+06"):
        qwen3(QWEN3 | {"rope_parameters": DEFAULT_ROPE | {"rope_theta": 5e6}})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, r"field rope_scaling asks for \"yarn\" .* set rope_scaling to null"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, r"rope_scaling asks for \"linear\""),
        ("rope_parameters", DEFAULT_ROPE | {"rope_type": "yarn"}, r"rope_parameters asks for \"yarn\" .* rope_type to default"),
        ("rope_parameters", DEFAULT_ROPE | {"partial_rotary_factor": 0.5}, r"rope_parameters.partial_rotary_factor is 0.5"),
        ("rope_parameters", {"full_attention": DEFAULT_ROPE}, r"rope_parameters.full_attention"),
        ("rope_scaling", "yarn", "rope_scaling is 'yarn', must be an object"),
        ("partial_rotary_factor", 0.25, "partial_rotary_factor is 0.25"),
        ("hidden_act", "gelu", r"hidden_act is \"gelu\""),
        ("attention_bias", True, "attention_bias is true: layers with biases"),
        ("mlp_bias", True, "mlp_bias is true"),
        ("pruned_heads", {"1": [0]}, "pruned_heads"),
        ("attention_dropout", 0.1, "attention_dropout is 0.1"),
        ("layer_types", ["full_attention", "sliding_attention"], r"layer_types has \"sliding_attention\""),
        ("layer_types", FULL[:1], "num_hidden_layers = 2"),
        ("quantization_config", {"quant_method": "fp8"}, "fp8.*bfloat16"),
        ("quantization", {"group_size": 64, "bits": 4}, "quantization is .*bfloat16"),
        ("query_pre_attn_scalar", 256, "field query_pre_attn_scalar of config.json is not known; if it does not change the mathematics, remove it"),
        ("hidden_size", "64", "hidden_size is '64', must be a whole number"),
        ("hidden_size", True, "hidden_size is True"),
        ("head_dim", REMOVED, "head_dim is missing"),
        ("rms_norm_eps", None, "rms_norm_eps is None, must be a number above 0"),
        ("tie_word_embeddings", "yes", "tie_word_embeddings is 'yes'"),
        ("num_key_value_heads", 3, "cannot share 3 key/value heads"),
    ],
)  # fmt: skip
def test_a_qwen3_that_is_another_model_is_refused(field, value, message):
    with pytest.raises(WeightsError, match=message) as raised:
        qwen3(changed(QWEN3, field, value))
    assert str(raised.value).startswith(str(PATH)) and "\n" not in str(raised.value)


def test_all_unknown_fields_are_named_at_once():
    with pytest.raises(WeightsError, match=r"fields a_gate, z_scale of config\.json are not known"):
        qwen3(QWEN3 | {"z_scale": 1, "a_gate": 2})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("downsample_ratio", 0.5),
        ("patch_size", 16),
        ("template", "neo1_0"),
        ("llm_config.model_type", "qwen3"),
        ("tie_word_embeddings", False),  # llm_config decides
        ("llm_config.layer_types", ["full_attention"] * 4),
        ("llm_config.rope_scaling", None),
    ],
)
def test_a_neo_that_is_the_same_model(field, value):
    assert neo_model(changed(NEO, field, value), PATH) == neo_model(NEO, PATH)


def test_a_neo_may_say_at_the_top_whether_it_is_tied():
    values = changed(NEO, "llm_config.tie_word_embeddings", REMOVED)
    assert neo_model(values | {"tie_word_embeddings": False}, PATH).tied is False
    with pytest.raises(WeightsError, match="tie_word_embeddings is missing"):
        neo_model(values, PATH)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vision_config.patch_size", 14, "vision_config.patch_size is 14.*16"),
        ("patch_size", 32, "field patch_size is 32"),
        ("vision_config.downsample_ratio", 0.25, "vision_config.downsample_ratio is 0.25"),
        ("vision_config.num_channels", 4, "num_channels is 4"),
        ("vision_config.llm_hidden_size", 128, "llm_hidden_size is 128"),
        ("vision_config.use_window", True, "vision_config.use_window of config.json is not known"),
        ("llm_config.rope_scaling", {"rope_type": "yarn"}, "llm_config.rope_scaling"),
        ("llm_config.attention_bias", True, "llm_config.attention_bias"),
        ("llm_config.extra_num_layers", 4, "extra_num_layers is 4"),
        ("llm_config.rope_theta_hw", REMOVED, "llm_config.rope_theta_hw is missing"),
        ("llm_config.model_type", "qwen3_moe", "llm_config.model_type is"),
        ("llm_config", [], "llm_config is .*, must be an object"),
        ("vision_config", REMOVED, "vision_config is missing"),
        ("fm_head_layers", 2, "fm_head_layers of config.json is not known"),
        ("quantization_config", {"quant_method": "gptq"}, "gptq"),
    ],
)
def test_a_neo_that_is_another_model_is_refused(field, value, message):
    with pytest.raises(WeightsError, match=message) as raised:
        neo_model(changed(NEO, field, value), PATH)
    assert str(raised.value).startswith(str(PATH)) and "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b'{"model_type": "qwen3",', b"[1]", b"\xff\xfe{}", b"[" * 100_000])
def test_a_config_that_is_no_json_object(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        read_config(path)
