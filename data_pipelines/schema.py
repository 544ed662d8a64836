"""What flows through the input pipeline: settings, samples, documents, packed rows. numpy only, no jax.

Shape legend: L tokens of a row or document, V visual tokens, I images.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np

VISUAL_TOKEN_SIDE = 32  # pixels: 2 x 2 patches of 16 x 16
VISUAL_TOKEN_BYTES = VISUAL_TOKEN_SIDE * VISUAL_TOKEN_SIDE * 3
NO_LABEL = -100
ROLES = ("system", "user", "assistant")
PICTURES = ("faithful", "reference")
FilePath = Annotated[str, pathlib.Path]  # a text that names a file or folder: a configuration may write ~ in it


class DataError(ValueError):
    """Data that cannot be used at all (an empty source, a broken index); the message says what, where and what to do."""


class SampleError(DataError):
    """One sample that cannot be used. It is skipped, counted and logged under `reason`, never replaced.

    Attributes:
      reason: a short stable word for counting, such as "missing_file" or "too_long".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Interrupted(Exception):
    """Work was asked to stop. What is done so far is on disk; starting again goes on from there."""


@dataclasses.dataclass(frozen=True)
class Media:
    """An image or video file: a path on disk, or bytes that a dataset already holds.

    Attributes:
      name: how messages name it (the path as written in the source).
      path: the file, or None when `data` is given.
      data: the encoded bytes, or None when `path` is given.
      pictures: how it becomes RGB, as in SourceSettings.
    """

    name: str
    path: pathlib.Path | None = None
    data: bytes | None = None
    pictures: str = "faithful"


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a conversation. `text` may hold `<image>` and `<video>` marks."""

    role: str
    text: str
    is_input: bool = False  # an assistant turn that is context only: it carries no labels


@dataclasses.dataclass(frozen=True)
class Sample:
    """One conversation as a source gives it, media still encoded.

    Attributes:
      key: names the sample in messages and logs, e.g. "captions.jsonl:17".
      turns: the conversation in order.
      images: one for each `<image>` mark, in order. Empty where `video` is set.
      video: the clip of the one `<video>` mark, or None.
      family: what kind of question it is, for evaluation tables; "" when unknown.
    """

    key: str
    turns: tuple[Turn, ...]
    images: tuple[Media, ...] = ()
    video: Media | None = None
    family: str = ""


@dataclasses.dataclass(frozen=True)
class Document:
    """One sample ready to be packed.

    Attributes:
      tokens: [L] int32 token ids; each image is `<img>`, n x `<IMG_CONTEXT>`, `</img>`.
      labels: [L] int32, not shifted: the token itself where it is to be predicted, else NO_LABEL.
      grids: [I, 2] int32, rows and columns of visual tokens of each image, in order.
      visual: [V, VISUAL_TOKEN_BYTES] uint8: for each visual token its 32 x 32 x 3 block (row, column, channel), images one
        after the other, row-major within an image. V = sum of rows x columns.
    """

    tokens: np.ndarray
    labels: np.ndarray
    grids: np.ndarray
    visual: np.ndarray


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """Where one source of the mixture comes from.

    Attributes:
      name: its name in mixtures and logs.
      format: "jsonl" (LLaVA-style JSON or JSONL) or "tfds" (an array_record dataset read with tfds.data_source).
      path: the .json/.jsonl file, or the TFDS dataset's version folder.
      media_root: folder that media paths are relative to and may not leave (jsonl only).
      pictures: how a file becomes 8-bit RGB. "faithful": as a viewer shows it (16-bit, 32-bit and float greys scaled to 8 bits,
        transparency over white, EXIF orientation, clip rotation and pixel aspect ratio applied). "reference": NEO's preprocessing, pixel
        for pixel (greys above 255 become white, transparency is dropped, orientation, rotation and pixel aspect ratio are ignored).
      ignore: keys of rows and turns to pass over that would be refused because they can change what is trained.
    """

    name: str
    format: str
    path: FilePath
    media_root: FilePath = ""
    pictures: str = "faithful"
    ignore: tuple[str, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields (key, sentence) for each setting that cannot be used."""
        if self.pictures not in PICTURES:
            yield "pictures", f"is {self.pictures!r}, must be one of {', '.join(PICTURES)}"


@dataclasses.dataclass(frozen=True)
class PhaseSettings:
    """What the input needs to know of one phase of the curriculum.

    Attributes:
      name: the phase's name.
      rows: packed rows the phase reads in all, over all hosts (steps x rows per step).
      context: L, tokens of a row.
      visual_tokens: V, visual tokens a row may hold (0: text only).
      images: images (video frames too) a row may hold.
      segments: documents a row may hold.
      min_pixels, max_pixels: limits on an image's pixels after resizing (video frames have `frame_pixels` as maximum).
      frames: most frames taken from a video.
      frames_per_second: (low, high) of the uniform draw of the sampling rate, capped by the video's own rate.
      frame_pixels: most pixels of a frame when a video gives more than four frames.
      mixture: weight of each source by name: its share of samples.
      loss_weighting: "square", "token" or "sample": weight 1/sqrt(N), 1 or 1/N for each of a sample's N label tokens.
      resize: "exact" (Pillow bicubic, the reference's pixels) or "fast" (OpenCV).
    """

    name: str
    rows: int
    context: int
    visual_tokens: int
    images: int
    segments: int
    min_pixels: int
    max_pixels: int
    frames: int
    frames_per_second: tuple[float, float]
    frame_pixels: int
    mixture: Mapping[str, float]
    loss_weighting: str = "square"
    resize: str = "exact"
