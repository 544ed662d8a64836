"""Chooses the frames of clips that are shown, by one of several named rules, for one clip or many at once.

All rules use a rate drawn from the phase's frames_per_second, at most the clip's own rate, and the phase's cap `frames`. They differ as follows:

- "neo" (NEO-ov): duration x rate frames, at the interior points of an even division: i * N // (n + 1).
- "qwen_vl" (qwen-vl-utils): the same number, at least 4 and even, evenly from the first to the last frame, rounded.
- "internvl" (InternVL): the same number, one for each of as many equal segments, starting at the middle of the first segment.
- "llava_video" (LLaVA-Video, LLaVA-OneVision): every round(clip's rate / rate)th frame from the first on; if these are more than the cap, as many
  as the cap, evenly from the first to the last, rounded down.

With "internvl", a clip of very few frames may show one of them twice, as in InternVL's own code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.randomness import uniform
from data_pipelines.schema import PhaseSettings

_LEAST_EVEN = 4  # smallest number of frames that qwen-vl-utils takes from a clip with at least that many

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Chosen(NamedTuple):
    """Number of shown frames of each clip ([c], at least 1 and at most the cap), and step between them in frames ([c], 0: evenly spaced)."""

    counts: Ints
    steps: Ints


def choose(duration: Floats, rate: Floats, frames: Ints, phase: PhaseSettings, seeds: npt.NDArray[np.uint64]) -> Chosen:
    """Chooses the number of shown frames of clips in a phase, whose `frames` must be positive. The drawn rate depends only on the clip's seed.

    Args:
      duration, rate, frames: [c] values of each clip, as in video.VideoInfo.
      seeds: [c] seed of each clip.
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
    """Returns [f] the indices of the shown frames in their clips, ascending in each clip.

    Args:
      number: [f] number of each shown frame among the shown frames of its clip, from 0 on.
      chosen, frames: [f] values for the clip of each shown frame: the result of `choose`, and the number of frames.
      phase: phase whose frame_choice is the rule.
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
