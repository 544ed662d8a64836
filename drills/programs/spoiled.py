"""neo_jax.train in which the loss weights of one step are multiplied by a number: python -m drills.programs.spoiled STEP FACTOR --config=..."""

import sys
from typing import Any

import jax.numpy as jnp

from neo_jax.train import main
from neo_jax.training import trainer

if __name__ == "__main__":
    step, factor = int(sys.argv.pop(1)), float(sys.argv.pop(1))
    batches = trainer.Trainer._batches

    def spoiled(self: Any, phase: Any, position: Any, mesh: Any) -> Any:
        for number, (batch, *rest) in enumerate(batches(self, phase, position, mesh), position.step + 1):
            if number == step:
                batch = batch._replace(loss_weights=batch.loss_weights * jnp.float32(factor))
            yield batch, *rest

    trainer.Trainer._batches = spoiled  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
