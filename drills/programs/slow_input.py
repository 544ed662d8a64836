"""neo_jax.train in which one process waits before each batch: python -m drills.programs.slow_input PROCESS SECONDS --config=..."""

import sys
import time
from typing import Any

import jax

from neo_jax.train import main
from neo_jax.training import trainer

if __name__ == "__main__":
    process, seconds = int(sys.argv.pop(1)), float(sys.argv.pop(1))
    batches = trainer.Trainer._batches

    def slow(self: Any, phase: Any, position: Any, mesh: Any) -> Any:
        for item in batches(self, phase, position, mesh):
            if jax.process_index() == process:
                time.sleep(seconds)
            yield item

    trainer.Trainer._batches = slow  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
