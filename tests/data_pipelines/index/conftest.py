"""The corpus that the tests of the index measure, and what of it is measured."""

import pytest
import small_corpus

from data_pipelines.index import measures


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root)
    return root


@pytest.fixture
def inspected(monkeypatch):
    """The keys of the samples that were measured in this process, in no order."""
    keys = []
    inspect = measures.inspect
    monkeypatch.setattr(measures, "inspect", lambda sample, *rest: keys.append(sample.key) or inspect(sample, *rest))
    return keys
