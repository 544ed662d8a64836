"""What flows through the input pipeline: settings, samples, documents, packed rows. numpy only, no jax.

Shape legend: L tokens of a row or document, V visual tokens, I images.
"""

from __future__ import annotations

import dataclasses
import pathlib
import string
from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np

from data_pipelines.conditions import read_condition
from data_pipelines.storage.interface import Stored

VISUAL_TOKEN_SIDE = 32  # pixels: 2 x 2 patches of 16 x 16
VISUAL_TOKEN_BYTES = VISUAL_TOKEN_SIDE * VISUAL_TOKEN_SIDE * 3
NO_LABEL = -100
ROLES = ("system", "user", "assistant")
DOCUMENT = "document"  # the role of a text that is no conversation: it is learned whole
PICTURES = ("faithful", "reference")
FRAME_CHOICES = ("neo", "qwen_vl", "internvl", "llava_video")
IMAGE_BUDGETS = ("neo", "u1")
U1_TEXT_TOKENS = 3072  # that SenseNova-U1 keeps of its context for what is no image
COLUMNS = (  # keys of rows that a source's `columns` may rename
    "conversations", "messages", "system", "tools", "question", "answer", "caption", "text", "texts",
    "image", "images", "video", "videos", "fps", "timestamps", "family", "id",
)  # fmt: skip
FilePath = Annotated[str, pathlib.Path]  # a text that names a file or folder: a configuration may write ~ in it


class DataError(ValueError):
    """Data that cannot be used at all (an empty source, a broken index); the message says what, where and what to do."""


class NoSamples(DataError):
    """All files of a source are empty."""


class SampleError(DataError):
    """One sample that cannot be used. It is skipped, counted and logged under `reason`, never replaced.

    Attributes:
      reason: a short stable word for counting, such as "missing_file" or "too_long".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Interrupted(Exception):
    """Work was asked to stop. What is done so far is on disk; starting again continues from there."""


@dataclasses.dataclass(frozen=True)
class Media:
    """An image or video file: a path on disk, an object or a part of a shard, or bytes that a dataset already holds.

    Attributes:
      name: how messages name it (the path as written in the source).
      path, stored, data: the file, where its bytes are stored, or its encoded bytes; the others are None.
      pictures: how it becomes RGB, as in SourceSettings.
      size: (height, width) in pixels that its row gives, where the source takes these (SourceSettings.given_sizes); else None.
    """

    name: str
    path: pathlib.Path | None = None
    data: bytes | None = None
    pictures: str = "faithful"
    stored: Stored | None = None
    size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video: one file, or frames that were taken from it before, as pictures.

    Attributes:
      files: the video file alone; or the frames in order.
      times: of frames: seconds from the clip's start at which each is shown, ascending. Empty for a video file.
    """

    files: tuple[Media, ...]
    times: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """How messages name it."""
        return self.files[0].name


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
      role: one of ROLES.
      text: what is said. Each mark `<image>` or `<video>` stands for an image or clip of the sample; where such a word is meant
        as a word, the text holds it as `text.marks.as_words` writes it.
      is_input: an assistant turn that is context only: it carries no labels.
    """

    role: str
    text: str
    is_input: bool = False


@dataclasses.dataclass(frozen=True)
class Sample:
    """One conversation or text as a source gives it, media still encoded.

    Attributes:
      key: names the sample in messages and logs, e.g. "captions.jsonl:17".
      turns: the conversation in order; a plain text is one turn of the role DOCUMENT.
      images: one for each `<image>` mark, in order.
      clips: one for each `<video>` mark, in order.
      family: what kind of question it is, for evaluation tables; "" when unknown.
    """

    key: str
    turns: tuple[Turn, ...]
    images: tuple[Media, ...] = ()
    clips: tuple[Clip, ...] = ()
    family: str = ""

    @property
    def files(self) -> tuple[Media, ...]:
        """All files: of the images, then of the clips."""
        return (*self.images, *(file for clip in self.clips for file in clip.files))


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
      format: what the files are: "jsonl" (JSON lines or a JSON list, plain, .gz or .zst), "tar" (WebDataset), "parquet", "arrayrecord",
        "tfds" (a dataset's folder, DATA_DIR/NAME or DATA_DIR/NAME:VERSION), "folder" (media with texts of the same name, or with
        metadata.jsonl) or "meta" (a list of JSONL datasets with root, annotation and repeat_time, as InternVL's and U1's kits read it).
      path: the file, or a pattern of files: {000..127}, {a,b}, * ? [] and **; or several of these. Local, or s3://BUCKET/KEY, gs://BUCKET/KEY.
      media_root: folder, local or in a store, that media paths are relative to and may not leave. Files that a shard itself holds are
        found first.
      pictures: how a file becomes 8-bit RGB. "faithful": as a viewer shows it (16-bit, 32-bit and float greys scaled to 8 bits,
        transparency over white, EXIF orientation, clip rotation and pixel aspect ratio applied). "reference": NEO's preprocessing, pixel
        for pixel (greys above 255 become white, transparency is dropped, orientation, rotation and pixel aspect ratio are ignored).
      ignore: keys of rows and turns to pass over that would be refused because they can change what is trained.
      columns: a row's column for a key that is read: {"question": "problem", "answer": "solution", "image": "picture"}.
      prompts: of captions and questions: what the user says, one of these for each row. {question} and {COLUMN} in braces are replaced by
        what the row has there; a list becomes lines A. B. C. Without prompts: the question; of captions nothing beside the file.
      frame_rate: frames a second of clips that are given as frames (a list of pictures or a folder) by rows without "fps" or "timestamps".
      given_sizes: `width` and `height` of a row (numbers, or lists for several) are the sizes of its pictures as `pictures` shows them, and no
        picture is opened to index it. A picture of another size fails when it is decoded.
      keep: conditions that all must hold for a sample to be used: ("column.language in en, de", "column.score >= 0.5", "side >= 224",
        "aspect <= 4"). Known are "tokens" (of its text), "images", "clips", "pixels", "side" (the shorter one) and "aspect" (longer through
        shorter side) of each image and clip, "seconds" of each clip, and "column.NAME" of its row.
      max_epochs: how often its samples are read at most over the whole run; 0: no limit. When they are used up, the other sources of a
        mixture take its share.
    """

    name: str
    format: str
    path: FilePath | tuple[FilePath, ...]
    media_root: FilePath = ""
    pictures: str = "faithful"
    ignore: tuple[str, ...] = ()
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    frame_rate: float = 0.0
    given_sizes: bool = False
    keep: tuple[str, ...] = ()
    max_epochs: float = 0.0

    @property
    def paths(self) -> tuple[str, ...]:
        """The patterns of `path`."""
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields (key, sentence) for each setting that cannot be used."""
        if self.pictures not in PICTURES:
            yield "pictures", f"is {self.pictures!r}, must be one of {', '.join(PICTURES)}"
        if self.frame_rate < 0:
            yield "frame_rate", f"is {self.frame_rate}, must be 0 or more frames a second"
        for name in sorted(set(self.columns) - set(COLUMNS)):
            yield f"columns.{name}", f"is no key that is read; the keys are {', '.join(COLUMNS)}"
        if self.max_epochs < 0:
            yield "max_epochs", f"is {self.max_epochs}, must be 0 (no limit) or more"
        for number, condition in enumerate(self.keep):
            try:
                read_condition(condition)
            except ValueError as error:
                yield f"keep[{number}]", f"is {condition!r}: {error}"
        for number, prompt in enumerate(self.prompts):
            try:
                names = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
            except ValueError as error:
                yield f"prompts[{number}]", f"is {prompt!r}: {error}; a brace that is meant as one is written twice"
            else:
                if not all(name.isidentifier() for name in names):
                    yield (
                        f"prompts[{number}]",
                        f"is {prompt!r}: a name in braces is a column's; a brace that is meant as one is written twice",
                    )


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
      frame_choice: which frames are shown (media/frames.py): "neo" (NEO-ov's), "qwen_vl", "internvl" or "llava_video".
      clip_pixels: most pixels of all frames of a clip together; 0: no such limit.
      jpeg_quality: (low, high): after it is resized, each image that is trained on is saved as a JPEG of a quality drawn from these, both
        included, anew in each epoch; (0, 0): never. Frames of clips are left as they are.
      image_budget: how several images (and frames) share pixels: "neo": each has 2 * max_pixels // n; "u1": what the context leaves beside
        3,072 tokens of text, 1024 * (context - 3072) // n, at most max_pixels.
      mixture: weight of each source by name: its share of samples.
      loss_weighting: "square", "token" or "sample": weight 1/sqrt(N), 1 or 1/N for each of a sample's N label tokens.
      resize: "exact" (Pillow bicubic, the reference's pixels) or "fast" (OpenCV; a JPEG that is to be shrunk to half or less is decoded to part of
        its size).
      rows_per_step: rows of an update, over all hosts. They are chosen to balance the work of its devices.
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
    rows_per_step: int = 1
    frame_choice: str = "neo"
    clip_pixels: int = 0
    image_budget: str = "neo"
    jpeg_quality: tuple[int, int] = (0, 0)
