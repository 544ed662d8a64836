"""Reads frames of clips. Frames of a file are selected by time, so variable frame rates are handled correctly."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt

from data_pipelines.media import faithful, frames, impostors
from data_pipelines.media.images import decode, header, is_faithful, open_media, read_bytes
from data_pipelines.media.sizes import MOST_DECODED_PIXELS, check_size
from data_pipelines.schema import Clip, Media, PhaseSettings, SampleError
from data_pipelines.storage.interface import StorageError

CLOCK_JUMP = Fraction(1, 2)  # seconds by which decoding times may decrease: in files with inexact times they decrease by a few frames
# Threads within FFmpeg: rows are decoded in parallel already, and starting threads costs more than a small clip's decoding.
THREADS = 1
SEEK_SECONDS = 8.0  # if the next frame is further ahead, the reader seeks instead of decoding the frames between
_STILL = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails

Indices = Sequence[int] | npt.NDArray[np.int64]

# Listed explicitly, because some of FFmpeg's readers (playlists) open other files and addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif,webp_anim"

# FFmpeg refuses larger frames before it reserves memory: their size in the file's header may be another.
LIMITS = {"max_pixels": str(MOST_DECODED_PIXELS)}


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Data from a clip's header.

    Attributes:
      duration: duration in seconds.
      rate: frames a second (the mean if it varies).
      frames: number of frames.
      height, width: size in pixels under the media's picture policy: with square pixels and rotated upright under "faithful".
      conversions: those of faithful.CONVERSIONS that the frames need, independent of the policy.
      times: display time of each frame in seconds, for a clip that is given as frames; empty for a file, whose rate is taken as constant.
    """

    duration: float
    rate: float
    frames: int
    height: int
    width: int
    conversions: tuple[str, ...] = ()
    times: tuple[float, ...] = ()


def probe(clip: Clip) -> VideoInfo:
    """Reads a clip's header. If the header lacks the number of frames or the duration, counts packets without decoding them.

    For a clip given as frames, only the first frame's header is read; its last frame lasts as long as the mean interval between frames.

    Raises SampleError: "missing_file", "unreadable_file", "empty_file", "broken_video", "bomb", "aspect_ratio"; for frames, those of
    images.header.
    """
    if clip.times:
        return _probe_frames(clip)
    (media,) = clip.files
    with _opened(media) as (container, stream):
        count, duration = stream.frames, (stream.duration or 0) * stream.time_base
        if not count or not duration:
            clocks = [(packet.pts, packet.dts) for packet in container.demux(stream) if packet.pts is not None]
            _check_clock([decoded for _, decoded in clocks if decoded is not None], stream.time_base, media.name)
            times = [shown for shown, _ in clocks]
            count = len(times)
            # The last frame is assumed to last as long as the mean of the others.
            duration = (max(times) - min(times)) * stream.time_base * Fraction(count, count - 1) if count > 1 else Fraction(0)
        height, width = _Shape.of(stream, media.pictures).size(stream.height, stream.width)
        conversions = _conversions(stream)
    if height < 1 or width < 1:
        raise SampleError(
            "broken_video",
            f"{media.name}: the size of its frames is not known: its first frame is damaged, or has more than {MOST_DECODED_PIXELS:,} pixels",
        )
    if count < 1 or duration <= 0:
        raise SampleError("broken_video", f"{media.name}: the clip has {count} frames in {float(duration)} s; is it a video?")
    check_size(height, width, media.name)
    return VideoInfo(float(duration), float(count / duration), count, height, width, conversions)


def _check_clock(times: Sequence[int], tick: Fraction, name: str) -> None:
    """Raises SampleError "broken_video" if decoding times jump back. Then files were concatenated, and a time is not unique to a frame."""
    for earlier, later in itertools.pairwise(times):
        if (earlier - later) * tick > CLOCK_JUMP:
            raise SampleError(
                "broken_video",
                f"{name}: its clock restarts after {float((earlier - times[0]) * tick):.1f} s, as where clips were joined byte by byte: join them "
                "with new times (ffmpeg -f concat -i LIST -c copy OUT)",
            )


def _probe_frames(clip: Clip) -> VideoInfo:
    count, times = len(clip.files), clip.times
    if count != len(times):
        raise SampleError("broken_video", f"{clip.name}: {count} frames with {len(times)} times; give each frame one")
    duration = (times[-1] - times[0]) * count / (count - 1) if count > 1 else 0.0
    if duration <= 0 or times[0] < 0 or any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise SampleError("broken_video", f"{clip.name}: the times of a clip's frames must ascend from 0 or later, over two frames or more")
    height, width, conversions = header(clip.files[0])
    return VideoInfo(times[0] + duration, count / duration, count, height, width, conversions, times)


def choose_frames(info: VideoInfo, phase: PhaseSettings, seed: int) -> npt.NDArray[np.int64]:
    """Returns [n] the indices of the frames of a clip that are shown, ascending, by the phase's rule (frames.py).

    Raises SampleError "no_frames" if the phase takes no video frames.
    """
    if phase.frames < 1:
        raise SampleError(
            "no_frames", f"phase {phase.name} takes no video frames (frames = {phase.frames}); take videos out of its mixture"
        )
    duration, rate, total = np.array([info.duration]), np.array([info.rate]), np.array([info.frames])
    chosen = frames.choose(duration, rate, total, phase, np.array([seed], np.uint64))
    return frames.shown(np.arange(chosen.counts[0]), chosen, total, phase)


def timestamps(info: VideoInfo, indices: Indices) -> list[float]:
    """Returns the display times of frames, in seconds from the clip's start."""
    if info.times:
        return [info.times[index] for index in np.asarray(indices).tolist()]
    return [index / info.rate for index in np.asarray(indices).tolist()]


def read_frames(clip: Clip, info: VideoInfo, indices: Indices, wanted: Sequence[bool] | None = None) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields the frames shown at the times of `indices`, which must ascend, one [H, W, 3] RGB array at a time to save memory.

    Args:
      wanted: which of `indices` are yielded; None: all. Of a file the others are decoded all the same, but not converted, so that the errors do
        not depend on what is wanted. Of a clip whose frames are files of their own, only those wanted are read.

    Raises SampleError "broken_video" if the clip ends early, is damaged or changes its size; also as `open_media` and images.decode.
    """
    wanted = [True] * len(indices) if wanted is None else wanted
    yield from _read_pictures(clip, info, indices, wanted) if clip.times else _read_file(clip.files[0], info, indices, wanted)


def _read_pictures(clip: Clip, info: VideoInfo, indices: Indices, wanted: Sequence[bool]) -> Iterator[npt.NDArray[np.uint8]]:
    for index in itertools.compress(np.asarray(indices).tolist(), wanted):
        media = clip.files[index]
        picture = decode(read_bytes(media), media.name, media.pictures)
        _check_size(picture.shape[:2], info, clip.name)
        yield picture


def _read_file(media: Media, info: VideoInfo, indices: Indices, wanted: Sequence[bool]) -> Iterator[npt.NDArray[np.uint8]]:
    with _opened(media) as (container, stream):
        shape = _Shape.of(stream, media.pictures)
        for frame, kept in zip(_shown_at(container, stream, info, timestamps(info, indices), media.name), wanted, strict=True):
            _check_size(shape.size(frame.height, frame.width), info, media.name)
            if kept:
                yield shape.picture(frame)


def _check_size(size: tuple[int, ...], info: VideoInfo, name: str) -> None:
    height, width = size
    if (height, width) != (info.height, info.width):
        raise SampleError(
            "broken_video", f"{name}: a frame has {width} x {height} pixels, where {info.width} x {info.height} were expected"
        )


class _Shape(NamedTuple):
    """The conversion of stored frames to pictures.

    Attributes:
      aspect: pixel aspect ratio, width divided by height.
      orientation: orientation, applied after the pixels are made square.
      over_white: True to composite transparency over white.
    """

    aspect: Fraction = Fraction(1)
    orientation: faithful.Orientation = faithful.UPRIGHT
    over_white: bool = False

    @classmethod
    def of(cls, stream: Any, pictures: str) -> _Shape:
        return cls(_aspect(stream), _orientation(stream), _has_alpha(stream)) if is_faithful(pictures) else cls()

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns (height, width) of the picture of a stored frame. Stretching one side makes the pixels square."""
        return self.orientation.size(*self._square(height, width))

    def picture(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
        """Converts a stored frame to RGB [H, W, 3]."""
        height, width = self._square(frame.height, frame.width)
        if (height, width) != (frame.height, frame.width):
            frame = frame.reformat(width, height, interpolation="BICUBIC", threads=THREADS)
        if self.over_white:
            pixels = faithful.over_white(frame.to_ndarray(format="rgba", threads=THREADS).astype(np.uint8, copy=False))
        else:
            pixels = frame.to_ndarray(format="rgb24", threads=THREADS).astype(np.uint8, copy=False)
        return self.orientation.turn(pixels)

    def _square(self, height: int, width: int) -> tuple[int, int]:
        return (height, round(width * self.aspect)) if self.aspect >= 1 else (round(height / self.aspect), width)


def _aspect(stream: Any) -> Fraction:
    ratio = stream.sample_aspect_ratio  # None or 0/1 if the file does not specify it
    return Fraction(ratio.numerator, ratio.denominator) if ratio and ratio.numerator > 0 < ratio.denominator else Fraction(1)


def _orientation(stream: Any) -> faithful.Orientation:
    return faithful.display_orientation(stream.codec_context.coded_side_data.get("display_matrix"))


def _has_alpha(stream: Any) -> bool:
    pixel_format = stream.codec_context.format
    return pixel_format is not None and any(component.is_alpha for component in pixel_format.components)


def _conversions(stream: Any) -> tuple[str, ...]:
    needed = {
        "transparency": _has_alpha(stream),
        "rotation": _orientation(stream) != faithful.UPRIGHT,
        "pixel_aspect": _aspect(stream) != 1,
    }
    return tuple(name for name, found in needed.items() if found)


def _shown_at(container: Any, stream: Any, info: VideoInfo, times: Sequence[float], name: str) -> Iterator[av.VideoFrame]:
    # Containers round times to clock ticks, so times need a tolerance; a tick may be as long as a frame, so the tolerance is capped.
    tolerance = min(2 * float(stream.time_base), 0.25 / info.rate)
    decoded = _decode(container, stream, info, name)
    shown, following = next(decoded, None), next(decoded, None)
    for time in times:
        if shown is not None and time - shown[0] > SEEK_SECONDS and not _lacks_presentation_times(container):
            for target in (time, 0.0):  # with a coarse index, a seek may land after the time; then restart from the beginning
                container.seek(int((target + _start(stream)) / stream.time_base), stream=stream)
                decoded = _decode(container, stream, info, name)
                shown, following = next(decoded, None), next(decoded, None)
                if shown is not None and shown[0] <= time + tolerance:
                    break
        while following is not None and following[0] <= time + tolerance:
            shown, following = following, next(decoded, None)
        if shown is None or (following is None and time > shown[1] + tolerance):
            raise SampleError("broken_video", f"{name}: the clip ends before {time:.2f} s, its header promises {info.duration:.2f} s")
        yield shown[2]


def _decode(container: Any, stream: Any, info: VideoInfo, name: str) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """Yields (start, end, frame); start and end of its display are in seconds from the clip's start."""
    tick, ticks_a_second = stream.time_base.numerator, stream.time_base.denominator  # quotients of integers: a Fraction costs a microsecond
    decoded = _decode_in_order(container, stream) if _lacks_presentation_times(container) else _decode_by_time(container, stream)
    for frame, ticks in decoded:
        if frame.is_corrupt or ticks is None:
            raise SampleError("broken_video", f"{name}: a frame is damaged or has no time")
        appears = ticks * tick / ticks_a_second
        yield appears, appears + (frame.duration * tick / ticks_a_second or 1 / info.rate), frame


def _decode_by_time(container: Any, stream: Any) -> Iterator[tuple[av.VideoFrame, int | None]]:
    """Yields each frame and its presentation time in ticks from the clip's start."""
    start = stream.start_time or 0
    for frame in container.decode(stream):
        yield frame, None if frame.pts is None else frame.pts - start


def _decode_in_order(container: Any, stream: Any) -> Iterator[tuple[av.VideoFrame, int | None]]:
    """Yields each frame and its time in ticks from the first packet: frame n in the order of display has the time of packet n.

    The presentation times that FFmpeg guesses for such packets are wrong if frames are stored in another order than displayed.
    """
    times: list[int | None] = []
    shown = 0
    for packet in container.demux(stream):
        if packet.size:  # an empty packet repeats the previous frame
            times.append(packet.dts)
        for frame in packet.decode():
            ticks = times[shown] if shown < len(times) else None
            yield frame, None if ticks is None or times[0] is None else ticks - times[0]
            shown += 1


def _lacks_presentation_times(container: Any) -> bool:
    """Returns True for AVI: it stores one packet a tick, in decoding order, without presentation times.

    Its frames must be counted from the beginning, without seeking.
    """
    return container.format.name == "avi"


def _start(stream: Any) -> Fraction:
    return (stream.start_time or 0) * stream.time_base


@contextlib.contextmanager
def _opened(media: Media) -> Iterator[tuple[Any, Any]]:
    with open_media(media) as file:
        try:
            with av.open(file, options={"format_whitelist": FORMATS} | LIMITS) as container:
                clips = [stream for stream in container.streams.video if not stream.disposition & _STILL]
                if not clips:
                    raise SampleError("broken_video", f"{media.name}: the file has no video stream (a cover picture is none)")
                clips[0].codec_context.thread_count = THREADS
                clips[0].codec_context.options = LIMITS
                yield container, clips[0]
        except StorageError as error:
            raise SampleError(error.reason, f"{media.name}: {error}") from error
        except av.FFmpegError as error:
            file.seek(0)
            if found := impostors.describe(file.read(impostors.HEAD_BYTES)):
                raise SampleError("broken_video", f"{media.name}: not a clip but {found}") from error
            advice = "the formats are MP4, MOV, Matroska, WebM, AVI, MPEG, FLV, ASF, Ogg, GIF and animated WebP"
            raise SampleError("broken_video", f"{media.name}: not a clip that can be decoded, or cut short ({error}); {advice}") from error
