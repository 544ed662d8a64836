"""Data types of the input pipeline: settings, samples and documents. Uses numpy only, not jax.

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
from data_pipelines.printable import printable
from data_pipelines.storage.interface import Stored

VISUAL_TOKEN_SIDE = 32  # pixels: 2 x 2 patches of 16 x 16
TOKEN_PIXELS = VISUAL_TOKEN_SIDE * VISUAL_TOKEN_SIDE
VISUAL_TOKEN_BYTES = VISUAL_TOKEN_SIDE * VISUAL_TOKEN_SIDE * 3
NO_LABEL = -100
ROLES = ("system", "user", "assistant")
DOCUMENT = "document"  # role of a text that is not a conversation; all its tokens carry labels
PICTURES = ("faithful", "reference")
FRAME_CHOICES = ("neo", "qwen_vl", "internvl", "llava_video")
IMAGE_BUDGETS = ("neo", "u1")
LOSS_WEIGHTINGS = ("square", "token", "sample")
RESIZES = ("exact", "fast")
U1_TEXT_TOKENS = 3072  # tokens of its context that SenseNova-U1 reserves for text
COLUMNS = (  # keys of rows that a source's `columns` may rename
    "conversations", "messages", "system", "tools", "question", "answer", "caption", "text", "texts",
    "image", "images", "video", "videos", "fps", "timestamps", "family", "id",
)  # fmt: skip
FilePath = Annotated[str, pathlib.Path]  # path of a file or folder as a string; in a configuration it may begin with ~


class DataError(ValueError):
    """Error for data that cannot be used at all (an empty source, a broken index). The message states the problem, its place and a remedy.

    Messages hold names and texts of the data: what a terminal would obey is escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message, keep="\n"))


class NoSamples(DataError):
    """All files of a source are empty."""


class SampleError(DataError):
    """Error for one sample that cannot be used. The sample is skipped, counted and logged under `reason`, never replaced.

    Attributes:
      reason: short fixed name under which the error is counted, such as "missing_file" or "too_long".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(printable(message))  # one line: no name can begin another in a log
        self.reason = reason


class Interrupted(Exception):
    """Raised after a request to stop. Finished work is on disk; the next start continues from it."""


@dataclasses.dataclass(frozen=True)
class Media:
    """An image or video file: a path on disk, an object in a store or a part of a shard, or bytes that a dataset contains.

    Attributes:
      name: name for messages (the path as written in the source).
      path, stored, data: path on disk, location of the bytes in a shard or store, or the encoded bytes; the others are None.
      pictures: policy for the conversion to RGB, as in SourceSettings.
      size: (height, width) in pixels as written in the row, if the source uses these (SourceSettings.given_sizes); else None.
    """

    name: str
    path: str | None = None  # making a pathlib.Path takes a tenth of the time in which a row is measured
    data: bytes | None = None
    pictures: str = "faithful"
    stored: Stored | None = None
    size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video: one video file, or frames that were already extracted to images.

    Attributes:
      files: the video file alone, or the frames in order.
      times: display time of each frame in seconds from the clip's start, ascending. Empty for a video file.
    """

    files: tuple[Media, ...]
    times: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """Name for messages."""
        return self.files[0].name


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
      role: one of ROLES.
      text: text of the turn. Each mark `<image>` or `<video>` is the place of an image or clip of the sample. If these characters are
        ordinary text, they are stored as `text.marks.as_words` writes them.
      is_input: True for an assistant turn that is context only and carries no labels.
    """

    role: str
    text: str
    is_input: bool = False


@dataclasses.dataclass(frozen=True)
class Sample:
    """One conversation or text as read from a source, with its media still encoded.

    Attributes:
      key: name of the sample in messages and logs, e.g. "captions.jsonl:17".
      turns: the conversation in order; a plain text is one turn with the role DOCUMENT.
      images: one for each `<image>` mark, in order.
      clips: one for each `<video>` mark, in order.
      family: kind of question, for evaluation tables; "" if unknown.
    """

    key: str
    turns: tuple[Turn, ...]
    images: tuple[Media, ...] = ()
    clips: tuple[Clip, ...] = ()
    family: str = ""

    @property
    def files(self) -> tuple[Media, ...]:
        """All media files: first the images, then the files of the clips."""
        return (*self.images, *(file for clip in self.clips for file in clip.files)) if self.clips else self.images


@dataclasses.dataclass(frozen=True)
class Document:
    """One sample ready to be packed.

    Attributes:
      tokens: [L] int32 token ids; each image is `<img>`, n x `<IMG_CONTEXT>`, `</img>`.
      labels: [L] int32, not shifted: the token itself if it is to be predicted, else NO_LABEL.
      grids: [I, 2] int32, rows and columns of visual tokens of each image, in order.
      visual: [V, VISUAL_TOKEN_BYTES] uint8: the 32 x 32 x 3 block (row, column, channel) of each visual token, in the order of the
        images, row-major within an image. V = sum of rows x columns.
    """

    tokens: np.ndarray
    labels: np.ndarray
    grids: np.ndarray
    visual: np.ndarray


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """Location and reading options of one source of the mixture.

    Attributes:
      name: name of the source in mixtures and logs.
      format: format of the files: "jsonl" (JSON lines or a JSON list, plain, .gz or .zst), "tar" (WebDataset), "parquet", "arrayrecord",
        "tfds" (a dataset's folder, DATA_DIR/NAME or DATA_DIR/NAME:VERSION), "folder" (media with texts of the same name, or with
        metadata.jsonl) or "meta" (a list of JSONL datasets with root, annotation and repeat_time, as InternVL's and U1's kits read it).
      path: the file, or a pattern of files: {000..127}, {a,b}, * ? [] and **; or several of these. Local, or s3://BUCKET/KEY, gs://BUCKET/KEY.
      media_root: folder, local or in a store, that media paths are relative to; a path may not lead out of it. Files inside the shard itself
        take precedence.
      pictures: how a file becomes 8-bit RGB. "faithful": as a viewer shows it (16-bit, 32-bit and float greys scaled to 8 bits,
        transparency over white, EXIF orientation, clip rotation and pixel aspect ratio applied). "reference": NEO's preprocessing, pixel
        for pixel (greys above 255 become white, transparency is dropped, orientation, rotation and pixel aspect ratio are ignored).
      ignore: keys of rows and turns to ignore that would otherwise be refused because they can change what is trained.
      columns: column name in the rows for each key: {"question": "problem", "answer": "solution", "image": "picture"}.
      prompts: texts of the user's turn for captions and questions; one of them is chosen for each row. {question} and {COLUMN} in braces are
        replaced by the row's value; a list becomes lines A. B. C. Without prompts, the text is the question; for captions, there is only the file.
      frame_rate: frames a second of clips that are given as frames (a list of pictures or a folder) by rows without "fps" or "timestamps".
      given_sizes: True: `width` and `height` of a row (numbers, or lists for several pictures) are the sizes of its pictures under the
        `pictures` policy, and indexing opens no picture. A picture of another size fails when it is decoded.
      keep: conditions that a sample must all meet to be used: ("column.language in en, de", "column.score >= 0.5", "side >= 224",
        "aspect <= 4"). Available are "tokens" (of its text), "images", "clips", "pixels", "side" (the shorter one) and "aspect" (longer side
        divided by shorter side) of each image and clip, "seconds" of each clip, and "column.NAME" of its row.
      task: kind of work, such as "captioning", for the training loss of all sources of one task together; "": the source counts to none.
      max_epochs: largest number of times that its samples are read over the whole run; 0: no limit. When it is reached, the other sources
        of a mixture take the source's share.
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
    task: str = ""

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
    """Settings of one phase of the curriculum that the input pipeline needs.

    Attributes:
      name: the phase's name.
      rows: total number of packed rows that the phase reads, over all hosts (steps x rows per step).
      context: L, tokens of a row.
      visual_tokens: V, largest number of visual tokens in a row (0: text only).
      images: largest number of images (including video frames) in a row.
      segments: largest number of documents in a row.
      min_pixels, max_pixels: limits on an image's pixels after resizing (video frames have `frame_pixels` as maximum).
      frames: largest number of frames taken from a video.
      frames_per_second: (low, high) of the uniform draw of the sampling rate, capped by the video's own rate.
      frame_pixels: largest number of pixels of a frame if more than four frames are taken from a video.
      frame_choice: rule by which frames are chosen (media/frames.py): "neo" (NEO-ov's), "qwen_vl", "internvl" or "llava_video".
      clip_pixels: largest number of pixels of all frames of a clip together; 0: no such limit.
      jpeg_quality: (low, high): range, both ends included, of the JPEG quality to which each training image is compressed after resizing,
        drawn again in each epoch; (0, 0): no compression. Frames of clips are not compressed.
      image_budget: how n images (or frames) of a sample share pixels: "neo": each has 2 * max_pixels // n; "u1": each has
        1024 * (context - 3072) // n, at most max_pixels, since 3,072 tokens of the context are reserved for text.
      mixture: weight of each source by name: its share of samples.
      loss_weighting: "square", "token" or "sample": weight 1/sqrt(N), 1 or 1/N for each of a sample's N label tokens.
      resize: "exact" (Pillow bicubic, the reference's pixels) or "fast" (OpenCV; a JPEG that is to be shrunk to half or less is decoded at a
        reduced size).
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

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields (key, sentence) for each setting that cannot be used."""
        low, high = self.jpeg_quality
        if (low or high) and not 1 <= low <= high <= 100:
            yield "jpeg_quality", f"is {self.jpeg_quality}, must be (low, high) between 1 and 100, or (0, 0) for none"
        if self.visual_tokens:
            yield from self._visual_problems()
        else:
            for key in ("images", "frames"):
                if getattr(self, key):
                    yield key, f"is {getattr(self, key)}, but visual_tokens is 0: set it to 0, or give the phase visual tokens"

    def _visual_problems(self) -> Iterator[tuple[str, str]]:
        budget = self.visual_tokens * TOKEN_PIXELS
        if self.visual_tokens > self.context:
            yield "visual_tokens", f"{self.visual_tokens} visual tokens do not fit a context of {self.context} tokens: lower it"
        if not 1 <= self.images <= self.visual_tokens:
            yield "images", f"is {self.images}, must be at least 1 and at most visual_tokens, {self.visual_tokens}"
        if self.min_pixels < TOKEN_PIXELS:
            yield "min_pixels", f"is {self.min_pixels}, must be at least {TOKEN_PIXELS}: one visual token"
        if self.max_pixels < self.min_pixels:
            yield "max_pixels", f"is {self.max_pixels}, below min_pixels {self.min_pixels}: raise it"
        if self.max_pixels > budget:
            yield "max_pixels", f"is {self.max_pixels}, but {self.visual_tokens} visual tokens hold {budget} pixels: lower it"
        elif self.max_pixels // TOKEN_PIXELS + 2 > self.context:
            yield "max_pixels", f"is {self.max_pixels}: with its two marks such an image fills more than {self.context} tokens: lower it"
        if self.image_budget == "u1" and self.context <= U1_TEXT_TOKENS:
            yield "image_budget", f'is "u1", which keeps {U1_TEXT_TOKENS} tokens for text, of a context of {self.context}: use "neo"'
        if self.frames:
            yield from self._video_problems(budget)

    def _video_problems(self, budget: int) -> Iterator[tuple[str, str]]:
        low, high = self.frames_per_second
        if low > high:
            yield "frames_per_second", f"is {self.frames_per_second}, must be (low, high)"
        if self.frames > self.images:
            yield "frames", f"is {self.frames}, but a row holds {self.images} images, and a frame is one: raise images or lower it"
        if self.frame_pixels < self.min_pixels:
            yield "frame_pixels", f"is {self.frame_pixels}, below min_pixels {self.min_pixels}: raise it"
        if self.frame_pixels > self.max_pixels:
            yield "frame_pixels", f"is {self.frame_pixels}, above max_pixels {self.max_pixels}: lower it"
        if 0 < self.clip_pixels < self.frames * self.min_pixels:
            yield (
                "clip_pixels",
                f"is {self.clip_pixels}, but {self.frames} frames of min_pixels have {self.frames * self.min_pixels}: raise it",
            )
        if self.frames * self.min_pixels > budget:
            yield "frames", f"{self.frames} frames of min_pixels do not fit {self.visual_tokens} visual tokens: lower it"
