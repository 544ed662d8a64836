"""neo_jax.train in which the learning rate of one step is far too large, so that the losses after it spike.

python -m drills.programs.spiking STEP FACTOR --config=...    (STEP of the first phase)
"""

import sys
from typing import Any

from neo_jax.train import main
from neo_jax.training import trainer

if __name__ == "__main__":
    step, factor = int(sys.argv.pop(1)), float(sys.argv.pop(1))
    learning_rates = trainer.learning_rates

    def spoiled(phase: Any) -> Any:
        rates = learning_rates(phase).copy()
        rates[step - 1] *= factor
        return rates

    trainer.learning_rates = spoiled
    sys.exit(main(sys.argv[1:]))
