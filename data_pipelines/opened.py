"""Documents whose pixels are not decoded yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.media import images, video
from data_pipelines.schema import VISUAL_TOKEN_BYTES, VISUAL_TOKEN_SIDE, Document, Media, PhaseSettings, Sample, SampleError, Turn
from data_pipelines.text.marks import IMAGE_MARK


class Plan(NamedTuple):
    """The layout of a sample, known before its pixels are decoded.

    Attributes:
      turns: the turns with an `<image>` mark for each frame of the clips.
      grids: [I, 2] rows and columns of visual tokens of each image and frame, in the order of the marks.
      marks: the marks of the original turns, one for each image or clip, in order.
      frames: indices of the frames that are shown, for each clip.
    """

    turns: Sequence[Turn]
    grids: npt.NDArray[np.int64]
    marks: Sequence[str]
    frames: Sequence[npt.NDArray[np.int64]]


class EncodedMedia(NamedTuple):
    """The encoded media of a sample, and how they are decoded.

    Attributes:
      clips: header of each clip.
      qualities: JPEG quality to which each image is degraded; empty: none is.
    """

    sample: Sample
    plan: Plan
    clips: Sequence[video.VideoInfo]
    phase: PhaseSettings
    qualities: Sequence[int]

    def pictures(self, wanted: Sequence[bool]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yields the wanted images and frames in the order of their marks, resized, decoding one at a time.

        Of a clip of which any frame is wanted all are examined (video.read_frames).
        """
        of_images, of_clips = enumerate(self.sample.images), zip(self.sample.clips, self.clips, self.plan.frames, strict=True)
        place = 0
        for mark in self.plan.marks:
            if mark == IMAGE_MARK:
                number, media = next(of_images)
                if wanted[place]:
                    yield self._image(number, media, place)
                place += 1
                continue
            clip, info, indices = next(of_clips)
            of_clip = wanted[place : place + len(indices)]
            size = self._size(place)  # one for all frames
            if any(of_clip):
                yield from (images.resize(frame, *size, self.phase.resize) for frame in video.read_frames(clip, info, indices, of_clip))
            place += len(indices)

    def _image(self, number: int, media: Media, place: int) -> npt.NDArray[np.uint8]:
        at_least = self._size(place) if self.phase.resize == "fast" else None
        picture = images.decode(images.read_bytes(media), media.name, media.pictures, at_least)
        resized = images.resize(picture, *self._size(place), self.phase.resize)
        return images.degrade(resized, self.qualities[number]) if self.qualities else resized

    def _size(self, place: int) -> tuple[int, int]:
        rows, columns = (VISUAL_TOKEN_SIDE * self.plan.grids[place]).tolist()
        return rows, columns


@dataclasses.dataclass(frozen=True)
class OpenedDocument:
    """A document whose pixels are not decoded yet.

    Attributes:
      tokens, labels, grids: as in Document.
      media: its encoded images and clips.
    """

    tokens: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    grids: npt.NDArray[np.int32]
    media: EncodedMedia

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens of all images."""
        return int(self.grids.prod(axis=1).sum())

    def without_pixels(self) -> Document:
        """Returns the document with zeros for pixels."""
        return Document(self.tokens, self.labels, self.grids, np.zeros((self.visual_tokens, VISUAL_TOKEN_BYTES), np.uint8))

    def decoded(self, wanted: npt.NDArray[np.bool_] | None = None) -> Document:
        """Decodes the pixels and returns the document.

        Args:
          wanted: [I] which images and frames are decoded; the pixels of the others stay zero. None: all.

        Raises:
          SampleError: one that is wanted cannot be decoded; the message begins with the sample's key.
        """
        document = self.without_pixels()
        ends = self.grids.prod(axis=1).cumsum()
        wanted = np.ones(len(ends), bool) if wanted is None else wanted
        try:
            for picture, number in zip(self.media.pictures(wanted.tolist()), np.flatnonzero(wanted), strict=True):
                document.visual[ends[number] - self.grids[number].prod() : ends[number]] = images.to_visual_tokens(picture)
        except SampleError as error:
            raise named(self.media.sample, error) from error
        return document


def named(sample: Sample, error: SampleError) -> SampleError:
    """Returns the error with the sample's key before its message."""
    return SampleError(error.reason, f"{sample.key}: {error}")
