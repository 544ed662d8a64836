"""The settings that, together with the shapes, determine the program of a forward pass."""

from __future__ import annotations

import dataclasses

from neo_jax import config


@dataclasses.dataclass(frozen=True)
class Computation:
    """The settings of a forward pass. A static argument of jitted functions: programs that differ here are compiled separately.

    Attributes:
      architecture: "qwen3" or "neo".
      compute_dtype: type of the activations, "float32" or "bfloat16".
      remat: what the backward pass recomputes: a name in model.backbone.REMATERIALISATION, or "none".
      unroll: how many layers an iteration of the loop over layers computes.
      attention: the attention implementation, as in attention.api.interval_attention.
      check_intervals: whether the devices check the values of attention intervals (run.debug).
    """

    architecture: str = "neo"
    compute_dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"
    check_intervals: bool = False

    @classmethod
    def of(cls, phase: config.Phase, debug: bool = False) -> Computation:
        """Returns the settings of a phase's training step."""
        return cls(phase.architecture, phase.compute_dtype, phase.remat, phase.unroll, phase.attention, debug)

    def for_decoding(self) -> Computation:
        """Returns the settings for generation: no rematerialisation, one layer an iteration, attention chosen automatically."""
        return dataclasses.replace(self, remat="none", unroll=1, attention="auto")
