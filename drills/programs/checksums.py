"""Times the checksum of a checkpoint's state, and prints seconds as JSON: python -m drills.programs.checksums CHECKPOINT"""

import json
import sys
import time

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from neo_jax.runs.record import checksum

TIMES = 20

if __name__ == "__main__":
    state = jax.tree.map(lambda x: jax.device_put(np.asarray(x)), ocp.load_checkpointables(sys.argv[1])["state"])
    jax.block_until_ready({part: checksum(arrays) for part, arrays in state.items()})
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        jax.device_get({part: checksum(arrays) for part, arrays in state.items()})
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds))
