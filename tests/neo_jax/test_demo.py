"""The demo's preparation, interrupted at any moment, goes on."""

import json
import pathlib

import pytest

from neo_jax import demo
from tests.neo_jax.training.tiny_run import SCENES


def test_what_a_killed_preparation_left_is_made_anew(tmp_path: pathlib.Path) -> None:
    """kill -9 during the conversion leaves a folder without its dataset; one during the tokenizer, no tokenizer."""
    corpus = tmp_path / "corpus"
    demo.prepare(corpus, SCENES)
    dataset = corpus / "tfds" / demo.TFDS_SOURCE / demo.VERSION
    dataset.rename(dataset.with_name(f"{demo.VERSION}.partial"))
    (dataset.with_name(f"{demo.VERSION}.partial") / "dataset_info.json").unlink()
    (corpus / "tokenizer.model").unlink()
    demo.prepare(corpus, SCENES)
    assert json.loads((dataset / "dataset_info.json").read_text())["name"] == demo.TFDS_SOURCE
    assert (corpus / "tokenizer.model").stat().st_size > 0
    assert [path.name for path in dataset.parent.iterdir()] == [demo.VERSION]


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        ([], ["--config=configs/demo.py"]),
        (["--cpu-devices=2", "--config.run.seed=1"], ["--config=configs/demo.py"]),
        (["--config=configs/demo.py:smoke"], []),
        (["--config", "configs/ablation.py", "--config.run.seed=1"], []),
    ],
)
def test_without_a_configuration_it_takes_its_own(arguments: list[str], added: list[str]) -> None:
    assert demo.with_configuration(arguments) == added + arguments
