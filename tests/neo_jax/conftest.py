"""Programs of these tests run once on tiny arrays: not optimising their machine code compiles them in two thirds of the time."""

import os

os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"  # read when jax first compiles
