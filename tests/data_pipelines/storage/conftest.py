"""Lets the tests of object stores import stores, however pytest imports them."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
