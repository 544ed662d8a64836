"""What compilers say when memory does not suffice."""

from neo_jax.chips import GIB
from neo_jax.planning.programs import needed_bytes

TPU = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO temporaries (24.12G) exceeds "
    "available HBM (15.75G). HLO module: jit_f."
)


def test_what_a_refused_program_needs():
    assert needed_bytes(TPU) == int(24.12 * GIB)
    assert needed_bytes("INTERNAL: Mosaic failed to compile") is None
