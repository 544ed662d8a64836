"""What, beside shapes, decides the program of a forward pass."""

from __future__ import annotations

import dataclasses

from neo_jax import config


@dataclasses.dataclass(frozen=True)
class Computation:
    """Part of the identity of every compiled program: two that differ here are never shared.

    Attributes:
      architecture: "qwen3" or "neo".
      compute_dtype: of activations: "float32" or "bfloat16".
      remat: what the backward pass recomputes: a name in model.backbone.REMATERIALISATION, or "none".
      attention: what computes it, as in attention.api.interval_attention.
      check_intervals: the devices check the values of attention intervals (run.debug).
    """

    architecture: str = "neo"
    compute_dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    check_intervals: bool = False

    @classmethod
    def of(cls, phase: config.Phase, debug: bool = False) -> Computation:
        """What a phase's training step computes."""
        return cls(phase.architecture, phase.compute_dtype, phase.remat, phase.attention, debug)

    def for_decoding(self) -> Computation:
        """The same for generation: no backward pass, and the attention that suits a cache."""
        return dataclasses.replace(self, remat="none", attention="auto")
