"""Lets the tests of this folder import small_corpus, however pytest imports them."""

import pathlib
import sys

import pytest

from data_pipelines.index import measures

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture
def inspected(monkeypatch):
    """The keys of the samples that were measured in this process, in no order."""
    keys = []
    inspect = measures.inspect
    monkeypatch.setattr(measures, "inspect", lambda sample, *rest: keys.append(sample.key) or inspect(sample, *rest))
    return keys
