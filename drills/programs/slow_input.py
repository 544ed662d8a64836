"""neo_jax.train in which one process waits before each step's rows: python -m drills.programs.slow_input PROCESS SECONDS --config=..."""

import sys
import time
from typing import Any

import jax

from data_pipelines.loading.loader import RowLoader
from neo_jax.train import main

if __name__ == "__main__":
    process, seconds = int(sys.argv.pop(1)), float(sys.argv.pop(1))
    batches = RowLoader.batches

    def slow(self: Any, *arguments: Any, **options: Any) -> Any:
        for item in batches(self, *arguments, **options):
            if jax.process_index() == process:
                time.sleep(seconds)
            yield item

    RowLoader.batches = slow  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
