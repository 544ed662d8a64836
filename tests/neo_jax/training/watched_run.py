"""Runs a configuration and prints as JSON what its loop waited for, and what memory its phases held: a program of test_loop.py.

python watched_run.py --config=FILE
"""

import json
import sys
import traceback

import jax
from jax._src.array import ArrayImpl

from neo_jax.config import parse_command_line
from neo_jax.training import flops, trainer

fetches: dict[str, int] = {}  # by the function of neo_jax that fetched something from the devices
memory: list[dict[str, int]] = []
inside_device_get = False


def caller() -> str:
    ours = [frame for frame in traceback.extract_stack() if "/neo_jax/" in frame.filename and "watched_run" not in frame.filename]
    return f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].name}" if ours else "elsewhere"


def note() -> None:
    fetches[caller()] = fetches.get(caller(), 0) + 1


original_get, original_value, original_count = jax.device_get, ArrayImpl._value, flops.count_rows


def device_get(tree):
    global inside_device_get
    note()
    inside_device_get = True
    try:
        return original_get(tree)
    finally:
        inside_device_get = False


def value(self):
    if not inside_device_get:
        note()
    return original_value.fget(self)


def count_rows(batch):
    """Called once before each step."""
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(running._state))
    rows = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
    live = sum(array.nbytes for array in jax.live_arrays())
    memory.append({"state": state, "batch": rows, "live": live})
    return original_count(batch)


jax.device_get = device_get
ArrayImpl._value = property(value)
flops.count_rows = count_rows
running = trainer.Trainer(parse_command_line(sys.argv[1:]))
running.run()
print(json.dumps({"fetches": fetches, "memory": memory}))
