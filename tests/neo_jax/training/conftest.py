"""The corpus that the trainer's tests share."""

import pathlib

import pytest

from neo_jax.demo import prepare
from tests.neo_jax.training.running import run, write_config
from tests.neo_jax.training.tiny_run import SCENES


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The demo's corpus in small, tokenizer and converted source included."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    prepare(folder, SCENES)
    return folder


@pytest.fixture(scope="session")
def whole(corpus: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory of a run that nothing interrupted."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    code, output = run(write_config(corpus, directory))
    assert code == 0, output
    return directory
