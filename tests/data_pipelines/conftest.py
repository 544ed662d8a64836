"""Lets the tests of this folder import small_corpus, however pytest imports them."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
