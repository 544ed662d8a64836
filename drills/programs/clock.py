"""neo_jax.train whose clock is so many seconds off as a file says: python -m drills.programs.clock FILE --config=..."""

import pathlib
import sys
import time

from neo_jax.train import main

if __name__ == "__main__":
    file, real = pathlib.Path(sys.argv.pop(1)), time.time

    def jumping() -> float:
        try:
            return real() + float(file.read_text())
        except (OSError, ValueError):  # not there yet, or being written
            return real()

    time.time = jumping
    sys.exit(main(sys.argv[1:]))
