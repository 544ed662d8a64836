"""What may differ between the configurations of two starts of a run."""

from __future__ import annotations

import copy
import json

import pytest

from configs import demo
from neo_jax.config import Config, differences

ALL = list(demo.get_config().curriculum)  # a run in its last phase
BEGUN = ["text", "pretrain", "captions"]  # a run in its third phase


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("phases.sft.mesh.data", 2),
        ("phases.sft.mesh.fsdp", 2),
        ("phases.sft.remat", "full"),
        ("phases.sft.attention", "chunked"),
        ("phases.sft.accumulate", 2),
        ("data.threads", 7),
        ("data.max_failure_rate", 0.5),
        ("data.index_folder", "elsewhere"),
        ("data.sources.text.path", "other.jsonl"),
        ("data.sources.text.media_root", "elsewhere"),
        ("data.heldout.text.path", "other.jsonl"),
        ("run.log_every", 3),
        ("run.checkpoint_every", 3),
        ("run.keep_checkpoints", 5),
        ("run.heldout_every", 3),
        ("evaluation.questions", 3),
        ("tokenizer.path", "moved.model"),
        ("run.initial", "moved"),
    ],
)
def test_may_change_in_an_existing_run(path: str, value: object) -> None:
    forbidden, allowed = _changes(path, value, ALL)
    assert forbidden == []
    assert len(allowed) == 1 and allowed[0].startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.rope_theta", 1e5),
        ("optimizer.beta1", 0.8),
        ("run.seed", 1),
        ("data.sources.text.format", "parquet"),
        ("phases.sft.rows_per_step", 8),
        ("phases.sft.context", 2048),
        ("phases.sft.steps", 3),
        ("phases.sft.learning_rate", 3.0),
        ("phases.sft.compute_dtype", "bfloat16"),
        ("phases.sft.resize", "fast"),
        ("phases.sft.loss_weighting", "token"),
        ("phases.sft.carry_optimizer", False),
        ("phases.sft.frames_per_second", [1.0, 3.0]),
        ("curriculum", ["text", "pretrain"]),
    ],
)
def test_may_not_change_in_an_existing_run(path: str, value: object) -> None:
    forbidden, allowed = _changes(path, value, ALL)
    assert any(change.startswith(f"{path}: ") and " -> " in change for change in forbidden)
    assert allowed == []


def test_a_phase_that_has_ended_may_get_more_steps() -> None:
    old = Config.from_config_dict(demo.get_config()).resolved()
    new = copy.deepcopy(old)
    new["phases"]["captions"]["steps"] += 1
    assert not differences(old, new, BEGUN, finished=True)[0]
    assert differences(old, new, BEGUN)[0] and differences(new, old, BEGUN, finished=True)[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("phases.sft.mixture.text", 2.0),
        ("phases.sft.context", 2048),
        ("phases.mid_256.steps", 3),
        ("phases.mid_256.learning_rate", 3.0),
        ("phases.captions.mixture.text", 2.0),
        ("phases.captions.mixture.caption", 0.0),
        ("data.sources.text.keep", ["tokens > 3"]),
        ("data.sources.text.max_epochs", 3.0),
        ("curriculum", [*BEGUN, "sft"]),
        ("curriculum", BEGUN),
    ],
)
def test_what_is_not_begun_may_change(path: str, value: object) -> None:
    forbidden, allowed = _changes(path, value, BEGUN)
    assert forbidden == []
    assert len(allowed) == 1 and allowed[0].startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.rope_theta", 1e5),
        ("run.seed", 1),
        ("phases.captions.steps", 3),
        ("phases.captions.learning_rate", 3.0),
        ("phases.pretrain.mixture.text", 2.0),
        ("data.sources.text.prompts", ["Say."]),
        ("curriculum", ["text", "captions", "sft"]),
        ("curriculum", BEGUN[:2]),
    ],
)
def test_what_is_begun_may_not_change(path: str, value: object) -> None:
    forbidden, allowed = _changes(path, value, BEGUN)
    assert any(change.startswith(f"{path}: ") and " -> " in change for change in forbidden)
    assert allowed == []


def test_sources_may_be_added_and_neither_removed_nor_moved() -> None:
    old = Config.from_config_dict(demo.get_config()).resolved()
    new = copy.deepcopy(old)
    sources = old["data"]["sources"]
    new["data"]["sources"] = {"more": sources["text"]} | sources
    new["phases"]["captions"]["mixture"]["more"] = 1.0
    assert differences(old, new, BEGUN)[0] == []
    new["data"]["sources"] = dict(reversed(sources.items()))
    assert any("data.sources: the order" in each for each in differences(old, new, BEGUN)[0])
    new["data"]["sources"] = {name: source for name, source in sources.items() if name != "video"}
    assert any("data.sources: video is missing" in each for each in differences(old, new, BEGUN)[0])


def _changes(path: str, value: object, begun: list[str]) -> tuple[list[str], list[str]]:
    old = Config.from_config_dict(demo.get_config()).resolved()
    new = copy.deepcopy(old)
    *sections, last = path.split(".")
    section = new
    for key in sections:
        section = section[key]
    assert section[last] != value
    section[last] = value
    return differences(old, new, begun)


def test_nothing_changed_is_no_difference() -> None:
    settings = Config.from_config_dict(demo.get_config())
    assert differences(json.loads(settings.to_json()), settings.resolved(), ALL) == ([], [])
