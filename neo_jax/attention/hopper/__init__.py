"""Interval attention on Hopper GPUs (sm_90) in Pallas Mosaic GPU: forward and backward."""

from neo_jax.attention.hopper.backward import backward
from neo_jax.attention.hopper.common import Blocks, computed_pairs, supports
from neo_jax.attention.hopper.forward import forward

__all__ = ["Blocks", "backward", "computed_pairs", "forward", "supports"]
