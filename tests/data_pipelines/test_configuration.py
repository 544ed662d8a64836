import pytest

from data_pipelines.configuration import read_configuration
from data_pipelines.failures import FailurePolicy
from data_pipelines.schema import DataError, PhaseSettings, SourceSettings

PHASE = {"context": 128, "segments": 8, "mixture": {"a": 2.0, "b": 0}, "steps": 3, "rows_per_step": 4}


def write(path, config):
    path.write_text(f"from ml_collections import ConfigDict\n\ndef get_config(arg=None):\n    return ConfigDict({config!r})\n")
    return str(path)


def minimal(**changes):
    config = {"curriculum": ("p",), "phases": {"p": PHASE}, "data": {"sources": {"a": {"format": "jsonl", "path": "a.jsonl"}}}}
    return config | changes


def test_what_is_left_out_has_its_default(tmp_path):
    read = read_configuration(write(tmp_path / "c.py", minimal()))
    assert read.phases == (PhaseSettings("p", 12, 128, 0, 0, 8, 0, 0, 0, (1.0, 4.0), 0, {"a": 2.0}, rows_per_step=4),)
    assert read.training == (SourceSettings("a", "jsonl", "a.jsonl"),)
    assert (read.tokenizer, read.add_special_tokens, read.seed, read.policy) == ("", True, 0, FailurePolicy())


def test_sources_and_limits_are_read(tmp_path):
    source = {"format": "jsonl", "path": "h.jsonl", "media_root": "m", "ignore": ["tools"]}
    data = {"sources": {}, "heldout": {"h": source}, "max_failure_rate": 0.5, "minimum_samples": 7}
    config = minimal(data=data, tokenizer={"path": "t.json", "add_special_tokens": False}, run={"seed": 3})
    read = read_configuration(write(tmp_path / "c.py", config))
    assert read.heldout == (SourceSettings("h", "jsonl", "h.jsonl", "m", ignore=("tools",)),)
    assert (read.tokenizer, read.add_special_tokens, read.seed) == ("t.json", False, 3)
    assert read.policy == FailurePolicy(max_rate=0.5, minimum_samples=7)


def test_a_source_may_have_several_paths(tmp_path):
    sources = {"a": {"format": "tar", "path": ["a-{0..9}.tar", "b.tar"]}}
    (read,) = read_configuration(write(tmp_path / "c.py", minimal(data={"sources": sources}))).training
    assert read.path == read.paths == ("a-{0..9}.tar", "b.tar")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": {}}, "phases.p is missing: set it"),
        ({"phases": {"p": PHASE | {"context": "128"}}}, "phases.p.context is '128', must be a whole number"),
        ({"phases": {"p": PHASE | {"frame_choice": "first"}}}, "phases.p.frame_choice is 'first', must be one of neo, qwen_vl"),
        ({"phases": {"p": PHASE | {"resize": "fats"}}}, "phases.p.resize is 'fats', must be one of exact, fast"),
        ({"phases": {"p": PHASE | {"jpeg_quality": (75,)}}}, "phases.p.jpeg_quality is (75,), must be (low, high), two whole numbers"),
        (
            {"phases": {"p": PHASE | {"jpeg_quality": (75, 101)}}},
            "phases.p.jpeg_quality is (75, 101), must be (low, high) between 1 and 100",
        ),
        (
            {"phases": {"p": PHASE | {"frames_per_second": (1, "4")}}},
            "phases.p.frames_per_second is (1, '4'), must be (low, high), two numbers",
        ),
        ({"phases": {"p": PHASE | {"images": 3}}}, "phases.p.images is 3, but visual_tokens is 0"),
        ({"phases": {"p": PHASE | {"images": True}}}, "phases.p.images is True, must be a whole number"),
        ({"phases": {"p": {key: PHASE[key] for key in PHASE if key != "steps"}}}, "phases.p.steps is missing"),
        ({"phases": 3}, "phases is 3, must be a section"),
        ({"curriculum": "p"}, "curriculum is 'p', must be a tuple"),
        ({"data": {"sources": {"a": {"format": "jsonl"}}}}, "data.sources.a.path is missing"),
        ({"data": {"max_failure_rate": "1%"}}, "data.max_failure_rate is '1%', must be a number"),
    ],
)
def test_a_value_that_is_missing_or_of_the_wrong_type_is_one_sentence(tmp_path, changes, message):
    with pytest.raises(DataError) as caught:
        read_configuration(write(tmp_path / "c.py", minimal(**changes)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("x = 1", "KeyError: 'get_config'"), ("def get_config(arg): raise ValueError(arg)", "ValueError: small")],
)
def test_a_file_that_is_no_configuration(tmp_path, content, message):
    if content is not None:
        (tmp_path / "c.py").write_text(content)
    with pytest.raises(DataError, match=message):
        read_configuration(f"{tmp_path / 'c.py'}:small")
