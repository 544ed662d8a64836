"""neo_jax.train whose pictures cannot be opened while a file exists: python -m drills.programs.stalling FILE --config=...

Whoever waits makes FILE.waiting.
"""

import pathlib
import sys
import time
from typing import Any

from data_pipelines.media import images
from neo_jax.train import main

if __name__ == "__main__":
    file = pathlib.Path(sys.argv.pop(1))

    def stalling(*arguments: Any) -> Any:
        while file.exists():
            file.with_name(f"{file.name}.waiting").touch()
            time.sleep(0.01)
        return open(*arguments)

    images.open = stalling  # type: ignore[attr-defined]
    sys.exit(main(sys.argv[1:]))
