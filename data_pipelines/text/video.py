"""The text around a clip's frames: the sentence in front, and each frame's time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.media.video import VideoInfo

Indices = Sequence[int] | npt.NDArray[np.int64]


def prefix(info: VideoInfo, indices: Indices) -> str:
    """The sentence in front of a clip's frames; the duration is cut to whole seconds (reference)."""
    minutes, seconds = divmod(int(info.duration), 60)
    return (
        f"The time range of this video is [00:00-{minutes:02d}:{seconds:02d}], and the following is a series of {len(indices)} frames "
        f"sampled at {len(indices) / info.duration:.1f} FPS.\n"
    )


def mark(seconds: float) -> str:
    """One frame and its time, as `[mm:ss.xx]:<image>` and a newline."""
    minutes, rest = divmod(round(seconds, 2), 60)
    return f"[{int(minutes):02d}:{rest:05.2f}]:<image>\n"
