"""Computes the sizes of images and frames in pixels and visual tokens; equal to the reference's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_pipelines.schema import U1_TEXT_TOKENS, VISUAL_TOKEN_SIDE, PhaseSettings, SampleError

LONGEST_ASPECT_RATIO = 200
FEW_FRAMES = 4  # up to this number of frames, each has the pixel budget of an image; above it, that of a frame
MOST_DECODED_PIXELS = 89_478_485  # a quarter of a gibibyte as RGB: Pillow's limit for a decompression bomb


def check_size(height: int, width: int, name: str) -> None:
    """Raises SampleError "bomb" if a picture is too large to decode, "aspect_ratio" if its longer side is over 200 times the shorter."""
    size = f"{name}: {width} x {height} pixels"
    if height * width > MOST_DECODED_PIXELS:
        raise SampleError("bomb", f"{size} when decoded, at most {MOST_DECODED_PIXELS:,} in all are allowed: store it smaller")
    if max(height, width) > LONGEST_ASPECT_RATIO * min(height, width):
        raise SampleError("aspect_ratio", f"{size}: the aspect ratio is above {LONGEST_ASPECT_RATIO}: crop it")


def image_limits(images: npt.ArrayLike, phase: PhaseSettings) -> npt.NDArray[np.int64]:
    """Returns the largest number of pixels of each image of a sample with `images` images (a number or an array of numbers).

    A single image may have max_pixels. The shares of n images depend on the phase's image_budget: "neo" gives each 2 * max_pixels // n; "u1"
    (SenseNova-U1) reserves U1_TEXT_TOKENS tokens of the context for text and gives each 32 * 32 * (context - U1_TEXT_TOKENS) // n, at most
    max_pixels. Neither gives less than min_pixels.
    """
    count = np.maximum(np.asarray(images, np.int64), 1)
    if phase.image_budget == "u1":
        left = VISUAL_TOKEN_SIDE * VISUAL_TOKEN_SIDE * (phase.context - U1_TEXT_TOKENS)
        shared = np.minimum(left // count, phase.max_pixels)
    else:
        shared = 2 * phase.max_pixels // count
    return np.where(count > 1, np.maximum(shared, phase.min_pixels), phase.max_pixels)


def frame_limits(frames: npt.ArrayLike, phase: PhaseSettings) -> npt.NDArray[np.int64]:
    """Returns the largest number of pixels of each frame of clips that show `frames` frames.

    The limit is that of one of `frames` images (image_limits). With more than FEW_FRAMES frames it is at most phase.frame_pixels. If
    phase.clip_pixels is not 0, it is also at most clip_pixels // frames, but this bound is at least min_pixels.
    """
    count = np.maximum(np.asarray(frames, np.int64), 1)
    limit = image_limits(count, phase)
    limit = np.where(count > FEW_FRAMES, np.minimum(limit, phase.frame_pixels), limit)
    if phase.clip_pixels:
        limit = np.minimum(limit, np.maximum(phase.clip_pixels // count, phase.min_pixels))
    return limit


def image_grids(hw: npt.ArrayLike, images_of_sample: npt.ArrayLike, phase: PhaseSettings) -> npt.NDArray[np.int64]:
    """Returns [n, 2] the rows and columns of visual tokens of images.

    Args:
      hw: [n, 2] heights and widths in pixels.
      images_of_sample: number of images of each image's sample: one number, or [n].
      phase: the limits.
    """
    return smart_resize(hw, phase.min_pixels, image_limits(images_of_sample, phase)) // VISUAL_TOKEN_SIDE


def smart_resize(hw: npt.ArrayLike, min_pixels: npt.ArrayLike, max_pixels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Computes sizes after resizing: multiples of 32, within the limits if possible, with about the same aspect ratio (as in the reference).

    Args:
      hw: [n, 2] heights and widths in pixels.
      min_pixels, max_pixels: limits on the number of pixels: one for all images, or [n] one for each.

    Returns:
      [n, 2] heights and widths. Very long images may exceed the limits, since no side becomes shorter than 32.
    """
    side = VISUAL_TOKEN_SIDE
    size = np.asarray(hw).reshape(-1, 2)
    height, width = size[:, 0].astype(np.float64), size[:, 1].astype(np.float64)  # integers below 2^53: exact
    new_height, new_width = (np.maximum(side, np.rint(each / side) * side) for each in (height, width))
    rounded_pixels = new_height * new_width
    # Only the sizes outside the limits are computed again.
    over = np.flatnonzero(rounded_pixels > max_pixels)
    if len(over):
        shrink = np.sqrt(height[over] * width[over] / _of_those(max_pixels, over))
        for new, old in ((new_height, height), (new_width, width)):
            new[over] = np.maximum(side, np.floor(old[over] / shrink / side) * side)
    under = np.flatnonzero((rounded_pixels < min_pixels) & (rounded_pixels <= max_pixels))
    if len(under):
        grow = np.sqrt(_of_those(min_pixels, under) / (height[under] * width[under]))
        for new, old in ((new_height, height), (new_width, width)):
            new[under] = np.ceil(old[under] * grow / side) * side
    return np.stack([new_height, new_width], axis=1, dtype=np.int64, casting="unsafe")


def _of_those(limits: npt.ArrayLike, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the limit, or those of the chosen images if each has its own."""
    limit = np.asarray(limits, np.float64)
    return limit[chosen] if limit.size > 1 else limit
