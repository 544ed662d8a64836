"""Which parameters train in a phase, and which are frozen."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from neo_jax.config.phase import trains_entries

NEW_ATTENTION = ("q_hw", "k_hw", "q_norm_h", "q_norm_w", "k_norm_h", "k_norm_w")  # parameters that NEO adds to each base layer


def trains(name: str, phase_trains: str) -> bool:
    """Returns whether a parameter trains in a phase.

    Args:
      name: of the parameter, such as base.attention.q.
      phase_trains: the phase's setting `trains`: "all", "new" (the parameters that NEO adds to a Qwen3), or patterns of names; several with commas
        between them. An entry with "!" in front takes its parameters out. The last entry that matches counts.
    """
    verdict = False
    for entry in trains_entries(phase_trains):
        if matches(name, entry.removeprefix("!")):
            verdict = not entry.startswith("!")
    return verdict


def matches(name: str, entry: str) -> bool:
    """Returns whether an entry, without "!", names a parameter."""
    if entry == "new":
        return name.startswith(("patch_embedding.", "pre_buffer.")) or name.split(".")[-1] in NEW_ATTENTION
    return entry == "all" or fnmatch.fnmatchcase(name, entry)


def split[Leaf](parameters: Mapping[str, Leaf], phase_trains: str) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """Divides parameters into (trainable, frozen) by a phase's `trains` setting."""
    trainable = {name: value for name, value in parameters.items() if trains(name, phase_trains)}
    return trainable, {name: value for name, value in parameters.items() if name not in trainable}
