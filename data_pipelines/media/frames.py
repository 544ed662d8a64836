"""Which frames of a clip are shown: named ways, for one clip or for many at once.

All take a rate drawn from the phase's frames_per_second, at most the clip's own, and its cap `frames`. They differ in what they make of these:

- "neo" (NEO-ov): duration x rate frames, at the interior points of an even division: i * N // (n + 1).
- "qwen_vl" (qwen-vl-utils): the same number, at least 4 and even, evenly from the first to the last frame, rounded.
- "internvl" (InternVL): the same number, from the middle of the first of as many equal segments on.
- "llava_video" (LLaVA-Video, LLaVA-OneVision): every round(clip's rate / rate)th frame from the first on; if that passes the cap, as many as the
  cap, evenly from the first to the last, rounded down.

A clip of very few frames may show one of them twice ("internvl"), as in the kit that the way comes from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.randomness import uniform
from data_pipelines.schema import PhaseSettings

_LEAST_EVEN = 4  # frames that qwen-vl-utils takes of a clip that has them

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Chosen(NamedTuple):
    """How many frames clips show ([c], at least 1 and at most the cap), and every how many frames one is shown ([c], 0: evenly)."""

    counts: Ints
    steps: Ints


def choose(duration: Floats, rate: Floats, frames: Ints, phase: PhaseSettings, seeds: npt.NDArray[np.uint64]) -> Chosen:
    """How many frames clips show in a phase, whose `frames` must be positive. The rate is drawn by each clip's seed alone.

    Args:
      duration, rate, frames: [c] of each clip, as in video.VideoInfo.
      seeds: [c] one for each.
    """
    low, high = phase.frames_per_second
    highest = np.minimum(high, rate)
    lowest = np.minimum(low, highest)
    drawn = lowest + (highest - lowest) * uniform(seeds)
    most = np.minimum(phase.frames, frames)
    steps = np.zeros_like(frames)
    if phase.frame_choice == "qwen_vl":
        wanted = np.minimum(np.maximum(duration * drawn, _LEAST_EVEN), most // 2 * 2).astype(np.int64) // 2 * 2
    elif phase.frame_choice == "llava_video":
        steps = np.maximum(1, np.rint(rate / drawn)).astype(np.int64)
        wanted = -(-frames // steps)
        steps[wanted > most] = 0
    else:
        wanted = np.minimum(duration * drawn, float(phase.frames)).astype(np.int64)
    return Chosen(np.maximum(1, np.minimum(wanted, most)), steps)


def shown(number: Ints, chosen: Chosen, frames: Ints, phase: PhaseSettings) -> Ints:
    """[f] which frames are shown, ascending in each clip.

    Args:
      number: [f] of each shown frame among those that its clip shows, from 0 on.
      chosen, frames: of the clip of each, [f].
      phase: names the way.
    """
    counts, steps = chosen
    if phase.frame_choice == "neo":
        return (number + 1) * frames // (counts + 1)
    if phase.frame_choice == "internvl":
        segment = (frames - 1) / counts
        return (segment / 2 + np.rint(segment * number)).astype(np.int64)
    even = number * ((frames - 1) / np.maximum(counts - 1, 1))
    if phase.frame_choice == "qwen_vl":
        return np.rint(even).astype(np.int64)
    last = (number == counts - 1) & (counts > 1)
    return np.where(steps > 0, number * steps, np.where(last, frames - 1, even.astype(np.int64)))
