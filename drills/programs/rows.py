"""neo_jax.train that writes the samples of each step into a file: python -m drills.programs.rows FILE --config=..."""

import json
import pathlib
import sys
from typing import Any

from neo_jax.train import main
from neo_jax.training import trainer

if __name__ == "__main__":
    file = pathlib.Path(sys.argv.pop(1))
    batches = trainer.Trainer._batches

    def watched(self: Any, phase: Any, position: Any, mesh: Any) -> Any:
        for number, item in enumerate(batches(self, phase, position, mesh)):
            first = (position.phase_step + number) * phase.rows_per_step
            samples = [key for row in range(first, first + phase.rows_per_step) for key in self._data.train.keys(position.phase, row)]
            with file.open("a") as lines:
                lines.write(json.dumps({"step": position.step + number + 1, "samples": samples}) + "\n")
            yield item

    trainer.Trainer._batches = watched  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
