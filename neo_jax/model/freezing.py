"""Which parameters train in a phase, and which are frozen."""

from __future__ import annotations

from collections.abc import Mapping

NEW_ATTENTION = ("q_hw", "k_hw", "q_norm_h", "q_norm_w", "k_norm_h", "k_norm_w")  # parameters that NEO adds to each base layer


def trains(name: str, phase_trains: str) -> bool:
    """Returns whether a parameter trains in a phase with this `trains` setting: "all", or "new" (the parameters that NEO adds to a Qwen3)."""
    if phase_trains == "all":
        return True
    return name.startswith(("patch_embedding.", "pre_buffer.")) or name.split(".")[-1] in NEW_ATTENTION


def split[Leaf](parameters: Mapping[str, Leaf], phase_trains: str) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """Divides parameters into (trainable, frozen) by a phase's `trains` setting."""
    trainable = {name: value for name, value in parameters.items() if trains(name, phase_trains)}
    return trainable, {name: value for name, value in parameters.items() if name not in trainable}
