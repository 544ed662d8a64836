"""Converts image files to visual tokens: reads, decodes, resizes, divides into blocks. Policy "reference" gives the reference's pixels."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features

from data_pipelines.media import faithful, impostors
from data_pipelines.media.near_names import near_name
from data_pipelines.media.sizes import check_size
from data_pipelines.schema import PICTURES, VISUAL_TOKEN_BYTES, VISUAL_TOKEN_SIDE, Media, SampleError
from data_pipelines.storage.interface import StorageError

# Listed explicitly, because Pillow's other readers start programs (EPS) or are little tested against hostile files. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *(("AVIF",) if features.check("avif") else ()))

# Limit in bytes on each decompressed text chunk and colour profile of a PNG. Pillow's default is 1 MiB, and 64 MiB for all text of a file.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20

# check_size has the same limit as Pillow and raises an error with the file's name before decoding; Pillow only warns up to twice the limit.
Image.MAX_IMAGE_PIXELS = None

_OTHER_FORMATS = (  # signature, its offset in bytes, name: other formats that web crawls contain
    (b"ftypavif", 4, "AVIF"),
    (b"ftypavis", 4, "AVIF"),
    (b"ftyphei", 4, "HEIC"),
    (b"ftypmif1", 4, "HEIF"),
    (b"\x00\x00\x00\x0cJXL ", 0, "JPEG XL"),
    (b"\xff\x0a", 0, "JPEG XL"),
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def open_media(media: Media) -> BinaryIO:
    """Opens the encoded bytes as a file. Raises SampleError "missing_file", "unreadable_file" or "empty_file"."""
    file: BinaryIO
    try:
        if media.data is not None:
            file, size = io.BytesIO(media.data), len(media.data)
        elif media.stored is not None:
            file = media.stored.open()
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
        else:
            assert media.path is not None, f"{media.name}: a Media has a path, a place in a store or data"
            file = open(media.path, "rb")  # noqa: SIM115  closed by the caller
            size = os.fstat(file.fileno()).st_size
    except StorageError as error:
        raise SampleError(error.reason, f"{media.name}: {error}") from error
    except FileNotFoundError as error:
        near = near_name(media.path) if media.path is not None else None
        hint = f"; the folder has {near!r}, whose letters differ in case: rename one" if near else ""
        raise SampleError("missing_file", f"{media.name}: no such file ({media.path}){hint}") from error
    except OSError as error:
        raise SampleError("unreadable_file", f"{media.name}: the file cannot be read ({error})") from error
    if size == 0:
        file.close()
        raise SampleError("empty_file", f"{media.name}: the file is empty (0 bytes)")
    return file


def read_bytes(media: Media) -> bytes:
    """Returns the encoded bytes. Raises SampleError as `open_media`."""
    with open_media(media) as file:
        try:
            return file.read()
        except OSError as error:
            raise SampleError("unreadable_file", f"{media.name}: the file cannot be read ({error})") from error


def loaded(media: Media) -> Media:
    """Returns the medium with its encoded bytes in memory, so that what follows opens no file. Raises SampleError as `open_media`."""
    return dataclasses.replace(media, data=read_bytes(media), path=None, stored=None)


class Header(NamedTuple):
    """Data from an image's header.

    Attributes:
      height, width: size in pixels under the media's picture policy: rotated by EXIF orientation under "faithful".
      conversions: those of faithful.CONVERSIONS that the image needs, independent of the policy.
    """

    height: int
    width: int
    conversions: tuple[str, ...]


def header(media: Media) -> Header:
    """Reads an image's header without decoding pixels.

    Raises SampleError: those of `open_media`, "not_an_image", "bomb", "aspect_ratio".
    """
    with open_media(media) as file, _opened(file, media.name) as image:
        height, width = image.height, image.width
        if is_faithful(media.pictures):
            height, width = faithful.pending_orientation(image).size(height, width)
        return Header(height, width, faithful.image_conversions(image))


def image_size(media: Media) -> tuple[int, int]:
    """Returns (height, width) in pixels of the result of `decode`, from the header alone. Raises SampleError as `header`."""
    height, width, _ = header(media)
    return height, width


def decode(data: bytes, name: str, pictures: str = "faithful", at_least: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Decodes the first frame of an encoded image to RGB [H, W, 3].

    Args:
      data: the file's bytes.
      name: name for messages.
      pictures: "faithful" (see faithful.decode_image) or "reference" (Pillow's RGB: alpha dropped, EXIF orientation ignored).
      at_least: (height, width) to which the result will be resized. A JPEG that is at least twice as large is decoded at four, three, two or
        one eighths of its size, from fewer coefficients. None: decoded at full size.

    Raises:
      SampleError: "not_an_image", "truncated", "bomb", "aspect_ratio".
    """
    as_shown = is_faithful(pictures)
    with _opened(io.BytesIO(data), name) as image:
        orientation = faithful.pending_orientation(image) if as_shown else faithful.UPRIGHT
        if (pixels := _decode_jpeg(image, data, orientation.size(*at_least) if at_least else None)) is not None:
            return orientation.turn(pixels)
        try:
            return faithful.decode_image(image) if as_shown else np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow's decoders raise many kinds of exceptions on damaged files
            _refuse_much_text(error, name)
            raise SampleError("truncated", f"{name}: the image data is cut short or damaged ({error})") from error


def _decode_jpeg(image: Image.Image, data: bytes, at_least: tuple[int, int] | None) -> npt.NDArray[np.uint8] | None:
    """Decodes a JPEG faster than Pillow; bit-equal to it at full size. Returns None for other or damaged files, which are left to Pillow."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    height, width = at_least or (0, 0)
    try:
        return simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=2 if at_least else 1)
    except ValueError:
        return None


def degrade(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """Compresses [H, W, 3] to a JPEG of this quality (Pillow's scale, 1 to 100) and returns the decoded result."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file, formats=("JPEG",)).convert("RGB"))


def resize(image: npt.NDArray[np.uint8], height: int, width: int, mode: str) -> npt.NDArray[np.uint8]:
    """Resizes [H, W, 3] uint8 to [height, width, 3].

    Mode "exact" is Pillow's bicubic and gives the reference's pixels. "fast" is OpenCV, about nine times faster: cubic, or the mean of
    areas if both sides shrink to half or less (OpenCV's cubic filter reads only 4 x 4 pixels, so it would alias). An image that already has
    the size is returned itself, as both libraries would copy it.
    """
    if mode not in ("exact", "fast"):
        raise ValueError(f'resize mode {mode!r} is unknown: use "exact" or "fast"')
    if image.shape[:2] == (height, width):
        return image
    if mode == "exact":
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    shrinks_much = min(image.shape[0] / height, image.shape[1] / width) >= 2
    method = cv2.INTER_AREA if shrinks_much else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)


def to_visual_tokens(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Divides [H, W, 3], with sides that are multiples of 32, into [H / 32 * W / 32, 3072]: 32 x 32 x 3 blocks in row-major order."""
    height, width, _ = image.shape
    side = VISUAL_TOKEN_SIDE
    blocks = image.reshape(height // side, side, width // side, side, 3).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(-1, VISUAL_TOKEN_BYTES)


def normalisation_table() -> npt.NDArray[np.float32]:
    """Returns the normalised value of each byte value for each channel, [256, 3] float32, bit-equal to the reference's patches.

    A table is used because a compiler may replace the division by a multiplication, which changes the last bit.
    """
    values = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    mean, std = np.array([IMAGENET_MEAN, IMAGENET_STD], np.float32)
    return (values - mean) / std


def is_faithful(pictures: str) -> bool:
    """Returns whether a picture policy is "faithful". Raises ValueError if it is unknown."""
    if pictures not in PICTURES:
        raise ValueError(f"picture policy {pictures!r} is unknown: use {' or '.join(PICTURES)}")
    return pictures == "faithful"


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Opens an image: reads the header and checks the size, without decoding pixels."""
    try:
        image = Image.open(file, formats=FORMATS)
    except StorageError as error:
        raise SampleError(error.reason, f"{name}: {error}") from error
    except Exception as error:  # header parsers raise SyntaxError, struct.error, ValueError and more on foreign bytes
        _refuse_much_text(error, name)
        raise SampleError("not_an_image", f"{name}: {_not_an_image(file, error)}") from error
    with image:
        check_size(image.height, image.width, name)
        yield image


def _not_an_image(file: BinaryIO, error: Exception) -> str:
    file.seek(0)
    first = file.read(impostors.HEAD_BYTES)
    for signature, offset, format in _OTHER_FORMATS:
        if first.startswith(signature, offset):
            return f"{format} cannot be read here: convert it to PNG, JPEG or WebP"
    if found := impostors.describe(first):
        return f"not an image but {found}"
    reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"  # which says no more, and names the file object
    return f"not an image in one of the formats {', '.join(FORMATS)}, or cut short{reason}"


def _refuse_much_text(error: Exception, name: str) -> None:
    """Raises SampleError "bomb" if Pillow's error is that the text or colour profile of a PNG decompresses to too many bytes."""
    if isinstance(error, ValueError) and ("MAX_TEXT_CHUNK" in str(error) or "MAX_TEXT_MEMORY" in str(error)):
        megabytes = PngImagePlugin.MAX_TEXT_CHUNK >> 20, PngImagePlugin.MAX_TEXT_MEMORY >> 20
        limits = "a text chunk or colour profile of over {} MiB, or over {} MiB of text in all".format(*megabytes)
        raise SampleError("bomb", f"{name}: the PNG holds {limits}: save it without metadata") from error
