"""The text around a clip's frames: the sentence before them, and the time of each frame.

Both are formatted from integers (seconds, frames, tenths, hundredths), so that equal integers give equal text and equally many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.media.video import VideoInfo

Indices = Sequence[int] | npt.NDArray[np.int64]


def prefix(info: VideoInfo, indices: Indices) -> str:
    """Returns the sentence before a clip's frames; the duration is rounded down to whole seconds (as in the reference)."""
    rate = int(decimals(np.array([len(indices) / info.duration]), 1)[0])
    return prefix_text(int(info.duration), len(indices), rate)


def prefix_text(duration: int, frames: int, rate: int) -> str:
    """Returns the sentence for a duration in whole seconds and a rate in tenths of frames a second."""
    minutes, seconds = divmod(duration, 60)
    return (
        f"The time range of this video is [00:00-{minutes:02d}:{seconds:02d}], and the following is a series of {frames} frames "
        f"sampled at {rate // 10}.{rate % 10} FPS.\n"
    )


def mark(seconds: float) -> str:
    """Returns the text of one frame: its time and mark as `[mm:ss.xx]:<image>`, and a newline."""
    return f"{time_text(int(decimals(np.array([seconds]), 2)[0]))}<image>\n"


def time_text(hundredths: int) -> str:
    """Formats a time in hundredths of a second as `[mm:ss.xx]:`."""
    minutes, rest = divmod(hundredths, 6000)
    return f"[{minutes:02d}:{rest // 100:02d}.{rest % 100:02d}]:"


def decimals(values: npt.NDArray[np.float64], digits: int) -> npt.NDArray[np.int64]:
    """Returns [n] the values times 10^digits as integers, rounded as Python formats a value with that many decimals: from its exact binary
    value, halves to even. `digits` is 1 or 2."""
    factor = float(10**digits)
    scaled = values * factor
    result: npt.NDArray[np.float64] = np.rint(scaled)
    below = np.floor(scaled)
    # The product itself is rounded, so near a half it may lie on the wrong side of it.
    close = np.flatnonzero(np.abs(scaled - below - 0.5) <= 1e-9 + scaled * 1e-15)
    if len(close):
        value, product, half = values[close], scaled[close], below[close] + 0.5
        high = value * 134217729.0  # 2^27 + 1: the value's upper and lower halves (Veltkamp), whose products are exact
        high -= high - value
        distance = (product - half) + ((high * factor - product) + (value - high) * factor)
        result[close] = np.where(distance == 0, np.rint(half), half + np.copysign(0.5, distance))
    return result.astype(np.int64)
