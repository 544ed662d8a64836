"""Times the checksums of a state with the arrays of a checkpoint, and prints seconds as JSON: python -m drills.programs.checksums CHECKPOINT"""

import json
import pathlib
import re
import sys
import time

import jax
import numpy as np

from neo_jax.runs.reading import read_record
from neo_jax.runs.record import checksum

TIMES = 20

if __name__ == "__main__":
    state: dict[str, dict[str, jax.Array]] = {}
    for name, description in read_record(pathlib.Path(sys.argv[1]))[1][
        "arrays"
    ].items():  # such as ['trainable']['embedding']: float32[640,128]
        part, (kind, shape) = name.split("'")[1], re.fullmatch(r"(\w+)\[([\d,]*)\]", description).groups()  # type: ignore[union-attr]
        sizes = [int(size) for size in shape.split(",") if size]
        state.setdefault(part, {})[name] = jax.device_put(np.ones(sizes, kind))
    jax.block_until_ready({part: checksum(arrays) for part, arrays in state.items()})
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        jax.device_get({part: checksum(arrays) for part, arrays in state.items()})
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds))
