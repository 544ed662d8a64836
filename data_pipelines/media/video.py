"""Clips to frames. Frames are found by time, so variable frame rates are right."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from data_pipelines.media.images import open_media
from data_pipelines.media.sizes import check_size, image_limits
from data_pipelines.schema import Media, PhaseSettings, SampleError

FEW_FRAMES = 4  # up to so many frames have an image's budget of pixels, more have a frame's

SEEK_SECONDS = 8.0  # a longer way to the next frame is jumped over rather than decoded

Indices = Sequence[int] | npt.NDArray[np.int64]

# Named, because some of FFmpeg's readers (playlists) open other files and addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg"


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a clip's header says.

    Attributes:
      duration: seconds.
      rate: frames a second (the mean, where it varies).
      frames: number of frames.
      height, width: pixels, as stored.
    """

    duration: float
    rate: float
    frames: int
    height: int
    width: int


def probe(media: Media) -> VideoInfo:
    """Reads a clip's header; packets are counted, without decoding, where the header does not know the number of frames.

    Raises SampleError: "missing_file", "unreadable_file", "empty_file", "broken_video", "bomb", "aspect_ratio".
    """
    with _opened(media) as (container, stream):
        frames, duration = stream.frames, (stream.duration or 0) * stream.time_base
        if not frames or not duration:
            times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
            frames = len(times)
            # The last frame is taken to be shown as long as the mean of the others.
            duration = (max(times) - min(times)) * stream.time_base * Fraction(frames, frames - 1) if frames > 1 else Fraction(0)
        height, width = stream.height, stream.width
    if frames < 1 or duration <= 0 or height < 1 or width < 1:
        raise SampleError("broken_video", f"{media.name}: the clip has {frames} frames in {float(duration)} s; is it a video?")
    check_size(height, width, media.name)
    return VideoInfo(float(duration), float(frames / duration), frames, height, width)


def choose_frames(info: VideoInfo, phase: PhaseSettings, seed: int | Sequence[int]) -> npt.NDArray[np.int64]:
    """[n] indices of the frames a sample shows, ascending, at the interior points of an even division: i * frames // (n + 1).

    The sampling rate is drawn from U(low, min(high, the clip's rate)) with a generator of its own, started from `seed`; n is at
    least 1 and at most phase.frames. Raises SampleError "no_frames" in a phase that takes none.
    """
    if phase.frames < 1:
        raise SampleError(
            "no_frames", f"phase {phase.name} takes no video frames (frames = {phase.frames}); take videos out of its mixture"
        )
    low, high = phase.frames_per_second
    high = min(high, info.rate)
    rate = np.random.default_rng(seed).uniform(min(low, high), high)
    count = max(1, min(int(info.duration * rate), phase.frames, info.frames))
    return np.arange(1, count + 1) * info.frames // (count + 1)


def frame_limit(frames: int, phase: PhaseSettings) -> int:
    """Most pixels of each of a sample's `frames` frames: what images share, and a frame's own limit when there are more than four."""
    shared = int(image_limits(frames, phase))
    return min(shared, phase.frame_pixels) if frames > FEW_FRAMES else shared


def timestamps(info: VideoInfo, indices: Indices) -> list[float]:
    """Seconds from the clip's start at which frames of a constant rate are shown."""
    return [index / info.rate for index in np.asarray(indices).tolist()]


def read_frames(media: Media, info: VideoInfo, indices: Indices) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames shown at the times of `indices`, which ascend: one [H, W, 3] RGB array after the other, to spare memory.

    Raises SampleError "broken_video" when the clip ends early, is damaged or changes its size; and as `open_media`.
    """
    with _opened(media) as (container, stream):
        for frame in _shown_at(container, stream, info, timestamps(info, indices), media.name):
            if (frame.height, frame.width) != (info.height, info.width):
                raise SampleError(
                    "broken_video",
                    f"{media.name}: a frame has {frame.width} x {frame.height} pixels, its header says {info.width} x {info.height}",
                )
            yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def _shown_at(container: Any, stream: Any, info: VideoInfo, times: Sequence[float], name: str) -> Iterator[av.VideoFrame]:
    # Containers round times to their clock; its own tick may be as long as a frame.
    tolerance = min(2 * float(stream.time_base), 0.25 / info.rate)
    frames = _decode(container, stream, info, name)
    shown, following = next(frames, None), next(frames, None)
    for time in times:
        if shown is not None and time - shown[0] > SEEK_SECONDS:
            for target in (time, 0.0):  # where a container's index is coarse the jump may land behind: then from the beginning
                container.seek(int((target + _start(stream)) / stream.time_base), stream=stream)
                frames = _decode(container, stream, info, name)
                shown, following = next(frames, None), next(frames, None)
                if shown is not None and shown[0] <= time + tolerance:
                    break
        while following is not None and following[0] <= time + tolerance:
            shown, following = following, next(frames, None)
        if shown is None or (following is None and time > shown[1] + tolerance):
            raise SampleError("broken_video", f"{name}: the clip ends before {time:.2f} s, its header promises {info.duration:.2f} s")
        yield shown[2]


def _decode(container: Any, stream: Any, info: VideoInfo, name: str) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """Each frame with the seconds from the clip's start at which it appears and disappears."""
    start = _start(stream)
    for frame in container.decode(stream):
        if frame.is_corrupt or frame.pts is None:
            raise SampleError("broken_video", f"{name}: a frame is damaged or has no time")
        appears = frame.pts * stream.time_base - start
        yield float(appears), float(appears) + (float(frame.duration * stream.time_base) or 1 / info.rate), frame


def _start(stream: Any) -> Fraction:
    return (stream.start_time or 0) * stream.time_base


@contextlib.contextmanager
def _opened(media: Media) -> Iterator[tuple[Any, Any]]:
    with open_media(media) as file:
        try:
            with av.open(file, options={"format_whitelist": FORMATS}) as container:
                if not container.streams.video:
                    raise SampleError("broken_video", f"{media.name}: the file has no video stream")
                yield container, container.streams.video[0]
        except av.FFmpegError as error:
            raise SampleError("broken_video", f"{media.name}: not a clip that can be decoded ({error})") from error
