"""The one table of environment variables and compiler flags that the front end sets for each kind of hardware.

Nothing here was timed on an accelerator. Each effect is one that was compiled ahead of time here (libtpu 0.0.52, which says what a program holds and
sends, not how long it takes), or one that the named source states. tests/launch/test_hardware.py and tests/aot/test_flags.py start with each of them:
a flag that jaxlib or libtpu does not know aborts the start.
"""

from __future__ import annotations

import dataclasses

LIBTPU, XLA = "LIBTPU_INIT_ARGS", "XLA_FLAGS"
LAYER_BYTES = 512 << 20  # more than the largest layer of configs/ in bfloat16 (9B: 0.4 GB)
HOPPER = ("h100", "h200")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One flag of a compiler, or one environment variable.

    Attributes:
      variable: environment variable; those of LIBTPU and XLA hold several flags.
      value: the flag, or the value of the variable.
      chips: that it is set for.
      effect: what it does.
      source: where the effect was measured, or who states it.
      slices: whether it is set for runs of several slices alone.
    """

    variable: str
    value: str
    chips: tuple[str, ...]
    effect: str
    source: str
    slices: bool = False


MAXTEXT = "stated by MaxText's library of flags (benchmarks/xla_flags_library.py)"
TOOLBOX = "stated by NVIDIA's JAX-Toolbox (July 2026)"
TPUS = ("v5e", "v5p", "v6e", "tpu7x")
SETTINGS = (
    # Not here: flags of async collective fusion. On v5e they are the default (libtpu compiles the same program with them); on v5p, v6e and TPU7x
    # libtpu refuses them for all-gathers, since results may be wrong. Nor reductions on sparse cores: wrong losses were reported by axlearn.
    Setting(
        LIBTPU,
        "--xla_tpu_enable_sparse_core_collective_offload_all_gather=true",
        ("v5p",),
        "the larger all-gathers of parameters run on the sparse cores and overlap computation; without it every gather is synchronous",
        "compiled here: the training step of 2B (docs/scale.md, Plans)",
    ),
    Setting(
        LIBTPU,
        "--xla_tpu_scoped_vmem_limit_kib=98304",
        ("v6e",),
        "the compiler may use 96 MiB of vector memory (VMEM) for one fusion",
        f"{MAXTEXT}: its value for dense models",
    ),
    Setting(
        LIBTPU,
        "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
        TPUS,
        "all-reduces of gradients between slices are scheduled beside computation",
        MAXTEXT,
        slices=True,
    ),
    Setting(
        LIBTPU,
        "--xla_tpu_data_parallel_opt_different_sized_ops=true",
        TPUS,
        "the same for gradients of different sizes, over several iterations",
        MAXTEXT,
        slices=True,
    ),
    Setting(
        "XLA_PYTHON_CLIENT_MEM_FRACTION",
        "0.9",
        HOPPER,
        "XLA takes 0.9 of the GPU's memory at the start (0.75 without it); plans count on it (neo_jax/chips.py)",
        TOOLBOX,
    ),
    Setting(
        "JAX_OPTIMIZATION_LEVEL",
        "O1",
        HOPPER,
        "the compiler takes more time, and makes programs that take less",
        f"{TOOLBOX}, and by jax's documentation of CompilerEffortLevel",
    ),
    Setting(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        HOPPER,
        "kernels of several streams start in the order of their launch, so that collectives overlap computation; for Hopper alone",
        TOOLBOX,
    ),
    *(
        Setting(
            XLA,
            f"--xla_gpu_{kind}_combine_threshold_bytes={LAYER_BYTES}",
            HOPPER,
            f"one {kind.replace('_', '-')} for all tensors of a layer in place of one for each",
            f"{TOOLBOX}: at least one layer's bytes",
        )
        for kind in ("all_gather", "all_reduce", "reduce_scatter")
    ),
)


def environment(chip: str, slices: int = 1) -> dict[str, str]:
    """Returns the environment variables for a run on so many slices of a chip (a name of neo_jax.chips); flags of one variable are joined."""
    found: dict[str, str] = {}
    for setting in SETTINGS:
        if chip in setting.chips and (slices > 1 or not setting.slices):
            before = f"{found[setting.variable]} " if setting.variable in found else ""
            found[setting.variable] = before + setting.value
    return found
