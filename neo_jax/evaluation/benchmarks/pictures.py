"""Pictures of a benchmark's rows: base64 in a cell, or files. The official kit writes the former to files first, as JPEG where nothing names them."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from data_pipelines.media.images import decode, image_size, open_media, read_bytes
from data_pipelines.schema import DataError, Media
from neo_jax.evaluation.benchmarks.message import Pixels
from neo_jax.evaluation.benchmarks.rows import Row, is_list

JPEG_QUALITY = 75  # of the files that the official kit writes
SHORT = 64  # a cell of at most so many characters is the index of the row that has the picture
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


@dataclasses.dataclass(frozen=True)
class StoredPicture:
    """A picture as a row has it.

    Attributes:
      media: the encoded file.
      written_as: format of the file that the official kit writes of it; "": it reads the file as it is.
      doubled: whether its sides are doubled first (bilinear).
    """

    media: Media
    written_as: str = ""
    doubled: bool = False

    @property
    def format(self) -> str:
        if self.written_as:
            return self.written_as
        with open_media(self.media) as file, Image.open(file) as image:
            return str(image.format)

    def size(self) -> tuple[int, int]:
        return image_size(self.media)

    def shown_size(self) -> tuple[int, int]:
        height, width = self.size()
        return (2 * height, 2 * width) if self.doubled else (height, width)

    def pixels(self) -> Pixels:
        data = read_bytes(self.media)
        pixels = decode(data, self.media.name, self.media.pictures)
        if not self.written_as:
            pixels = over_white(data, pixels)
        if self.written_as == "JPEG":
            pixels = through_jpeg(pixels)
        return doubled(pixels) if self.doubled else pixels


def over_white(data: bytes, pixels: Pixels) -> Pixels:
    """Returns a decoded picture as the official wrapper shows a file: over white if some of its pixels are wholly transparent, but not all."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode != "RGBA":
            return pixels
        alpha = image.getchannel("A")
        low, high = alpha.getextrema()
        if low or not high:
            return pixels
        shown = Image.new("RGB", image.size, "white")
        shown.paste(image, mask=alpha)
        return np.asarray(shown)


def through_jpeg(pixels: Pixels) -> Pixels:
    """Returns what is left of a picture in a JPEG of the official kit's quality."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(file).convert("RGB"))


def doubled(pixels: Pixels) -> Pixels:
    """Returns a picture with twice its height and width."""
    height, width, _ = pixels.shape
    return np.asarray(Image.fromarray(pixels).resize((2 * width, 2 * height), Image.Resampling.BILINEAR))


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Where the pictures of a benchmark's rows are.

    Attributes:
      root: folder that paths are relative to.
      quirks: reads what the official kit writes to files as those files.
      rows: all rows by their index, for cells that name another row.
    """

    root: pathlib.Path
    quirks: bool
    rows: Mapping[str, Row]

    def of(self, row: Row) -> list[StoredPicture]:
        """Returns the pictures of a row, from its columns `image` and `image_path`. Raises DataError."""
        names = _texts(row, "image_path")
        if not row.has("image"):
            return [self.file(row, name) for name in names]
        cells = _texts(row, "image")
        data = [self._bytes(row, cell) for cell in cells]
        if names and len(names) != len(data):
            raise DataError(f"{row.place}: has {len(data)} pictures and {len(names)} names (image_path): give each one")
        names = names or [f"{row.key}.jpg"] * (len(data) == 1) or [f"{row.key}_{number}.png" for number in range(1, len(data) + 1)]
        formats = [FORMATS.get(pathlib.PurePath(name).suffix.lower(), "PNG") if self.quirks else "" for name in names]
        places = [f"{row.place}, picture {number}" for number in range(1, len(data) + 1)]
        return [
            StoredPicture(Media(place, data=each, pictures="reference"), format)
            for place, each, format in zip(places, data, formats, strict=True)
        ]

    def file(self, row: Row, name: str) -> StoredPicture:
        """Returns the picture of a path. Raises DataError if there is none, or it leads out of the folder."""
        return StoredPicture(Media(f"{row.place}, {name}", path=str(inside(self.root, name, row.place)), pictures="reference"))

    def _bytes(self, row: Row, cell: str) -> bytes:
        if len(cell) <= SHORT and cell in self.rows and cell != row.key:
            (cell,) = _texts(self.rows[cell], "image")
        try:
            return base64.b64decode(cell, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"{row.place}: 'image' is {cell!r:.40}, neither a picture as base64 nor the index of another row") from error


def inside(root: pathlib.Path, name: str, place: str) -> pathlib.Path:
    """Returns the path of a file below a folder. Raises DataError if it is not there, or leads out of the folder."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{place}: {name!r} leads out of {root}")
    if not path.exists():
        raise DataError(f"{place}: {path} does not exist: name the folder of its media")
    return path


def _texts(row: Row, name: str) -> Sequence[str]:
    if not row.has(name):
        return ()
    text = row.text(name)
    return row.list(name) if is_list(text) else (text,)
