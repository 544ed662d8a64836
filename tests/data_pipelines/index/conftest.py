"""The corpus that the tests of the index measure."""

import pytest
import small_corpus


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root)
    return root
