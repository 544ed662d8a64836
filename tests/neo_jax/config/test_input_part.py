"""data_pipelines reads its part of a configuration file without neo_jax: both must read the same."""

import dataclasses
import pathlib

import pytest

from data_pipelines.configuration import PHASE_DEFAULTS, read_configuration
from data_pipelines.schema import PhaseSettings
from neo_jax.config import Phase, parse_command_line

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize("file", ["demo.py", "demo.py:smoke", "neo_ov_2b.py", "neo_ov_2b.py:laptop"])
def test_both_readers_agree(file):
    file = str(ROOT / "configs" / file)
    ours, whole = read_configuration(file), parse_command_line([f"--config={file}"])
    assert ours.phases == tuple(phase.input() for phase in whole.phases)
    assert (*ours.training, *ours.heldout) == (*whole.data.sources.values(), *whole.data.heldout.values())
    assert (ours.tokenizer, ours.add_special_tokens) == (whole.tokenizer.path, whole.tokenizer.add_special_tokens)
    limits = (whole.data.max_failure_rate, whole.data.max_failure_run, whole.data.minimum_samples)
    assert (ours.policy.max_rate, ours.policy.max_run, ours.policy.minimum_samples) == limits and ours.seed == whole.run.seed


def test_defaults_are_the_same():
    defaults = {field.name: field.default for field in dataclasses.fields(Phase) if field.name in PHASE_DEFAULTS}
    assert defaults == dict(PHASE_DEFAULTS)
    optional = {field.name for field in dataclasses.fields(Phase) if field.default is not dataclasses.MISSING}
    assert optional & {field.name for field in dataclasses.fields(PhaseSettings)} == PHASE_DEFAULTS.keys()


def test_keys_to_ignore_are_a_setting_of_each_source():
    arguments = [f"--config={ROOT / 'configs/demo.py'}", '--config.data.sources.text.ignore=("tools", "prompt")']
    assert parse_command_line(arguments).data.sources["text"].ignore == ("tools", "prompt")
    assert parse_command_line([arguments[0], "--config.data.sources.text.ignore=tools"]).data.sources["text"].ignore == ("tools",)


def test_a_path_on_the_command_line_is_one_or_several():
    config = f"--config={ROOT / 'configs/demo.py'}"
    for text, path in (("a-{0,1}.jsonl", "a-{0,1}.jsonl"), ('("a.tar", "~/b.tar")', ("a.tar", str(pathlib.Path("~/b.tar").expanduser())))):
        assert parse_command_line([config, f"--config.data.sources.text.path={text}"]).data.sources["text"].path == path
