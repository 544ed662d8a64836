"""Image files to visual tokens: read, decode, resize, cut into blocks. Policy "reference" gives the reference's pixels."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, PngImagePlugin, features

from data_pipelines.media import faithful, impostors
from data_pipelines.media.near_names import near_name
from data_pipelines.media.sizes import check_size
from data_pipelines.schema import PICTURES, VISUAL_TOKEN_BYTES, VISUAL_TOKEN_SIDE, Media, SampleError
from data_pipelines.storage.interface import StorageError

# Named, because Pillow's other readers start programs (EPS) or are little tested against hostile files. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *(("AVIF",) if features.check("avif") else ()))

# Each text chunk and colour profile of a PNG may expand to so much; Pillow allows 1 MiB, and 64 MiB for all text of a file.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20

# check_size has Pillow's limit and refuses by name before a pixel is decoded; Pillow's own check would only warn up to twice the limit.
Image.MAX_IMAGE_PIXELS = None

_OTHER_FORMATS = (  # first bytes, offset, name: what web crawls hold beside FORMATS
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
    """The encoded bytes as an open file. Raises SampleError "missing_file", "unreadable_file" or "empty_file"."""
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
            file = media.path.open("rb")
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
    """The encoded bytes. Raises SampleError as `open_media`."""
    with open_media(media) as file:
        try:
            return file.read()
        except OSError as error:
            raise SampleError("unreadable_file", f"{media.name}: the file cannot be read ({error})") from error


class Header(NamedTuple):
    """What an image's header says.

    Attributes:
      height, width: pixels, as the media's picture policy shows them: turned by EXIF orientation under "faithful".
      conversions: those of faithful.CONVERSIONS that the image needs, under either policy.
    """

    height: int
    width: int
    conversions: tuple[str, ...]


def header(media: Media) -> Header:
    """Reads an image's header, no pixels.

    Raises SampleError: those of `open_media`, "not_an_image", "bomb", "aspect_ratio".
    """
    with open_media(media) as file, _opened(file, media.name) as image:
        height, width = image.height, image.width
        if is_faithful(media.pictures):
            height, width = faithful.pending_orientation(image).size(height, width)
        return Header(height, width, faithful.image_conversions(image))


def image_size(media: Media) -> tuple[int, int]:
    """(height, width) in pixels as `decode` gives them, from the header alone. Raises SampleError as `header`."""
    height, width, _ = header(media)
    return height, width


def decode(data: bytes, name: str, pictures: str = "faithful", at_least: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """The first frame of an encoded image as RGB [H, W, 3].

    Args:
      data: the file's bytes.
      name: stands in messages.
      pictures: "faithful" (see faithful.decode_image) or "reference" (Pillow's RGB: alpha dropped, EXIF orientation ignored).
      at_least: (height, width) that will be made of it: a JPEG that is at least twice as large is decoded to four, three, two or one eighths of
        its size, by fewer coefficients. None: to its whole size.

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
        except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them trip over
            _refuse_much_text(error, name)
            raise SampleError("truncated", f"{name}: the image data is cut short or damaged ({error})") from error


def _decode_jpeg(image: Image.Image, data: bytes, at_least: tuple[int, int] | None) -> npt.NDArray[np.uint8] | None:
    """A JPEG's pixels, Pillow's to the bit at its whole size and sooner; None for another file and for a damaged one, which Pillow judges."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    height, width = at_least or (0, 0)
    try:
        return simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=2 if at_least else 1)
    except ValueError:
        return None


def degrade(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """[H, W, 3] as it looks after being saved as a JPEG of this quality (Pillow's scale, 1 to 100)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file, formats=("JPEG",)).convert("RGB"))


def resize(image: npt.NDArray[np.uint8], height: int, width: int, mode: str) -> npt.NDArray[np.uint8]:
    """[H, W, 3] uint8 to [height, width, 3].

    mode "exact" is Pillow's bicubic, the reference's pixels; "fast" is OpenCV, about nine times faster: cubic, or the mean of
    areas when a side shrinks to half or less (OpenCV's cubic reads 4 x 4 pixels only, which then aliases).
    """
    if mode == "exact":
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    if mode != "fast":
        raise ValueError(f'resize mode {mode!r} is unknown: use "exact" or "fast"')
    shrinks_much = min(image.shape[0] / height, image.shape[1] / width) >= 2
    method = cv2.INTER_AREA if shrinks_much else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)


def to_visual_tokens(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[H, W, 3] with sides that are multiples of 32 to [H / 32 * W / 32, 3072]: 32 x 32 x 3 blocks in row-major order."""
    height, width, _ = image.shape
    side = VISUAL_TOKEN_SIDE
    blocks = image.reshape(height // side, side, width // side, side, 3).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(-1, VISUAL_TOKEN_BYTES)


def normalisation_table() -> npt.NDArray[np.float32]:
    """[256, 3] float32: the normalised value of each byte of each channel, bit-equal to the reference's patches.

    A table, because a compiler may turn the division into a multiplication and lose the last bit.
    """
    values = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    mean, std = np.array([IMAGENET_MEAN, IMAGENET_STD], np.float32)
    return (values - mean) / std


def is_faithful(pictures: str) -> bool:
    """Whether a picture policy is "faithful". Raises ValueError for one that is unknown."""
    if pictures not in PICTURES:
        raise ValueError(f"picture policy {pictures!r} is unknown: use {' or '.join(PICTURES)}")
    return pictures == "faithful"


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Header read, size checked, pixels not decoded."""
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
    return f"not an image in one of the formats {', '.join(FORMATS)} ({error})"


def _refuse_much_text(error: Exception, name: str) -> None:
    """Raises SampleError "bomb" where Pillow stopped because text or a colour profile of a PNG expands too far."""
    if isinstance(error, ValueError) and ("MAX_TEXT_CHUNK" in str(error) or "MAX_TEXT_MEMORY" in str(error)):
        megabytes = PngImagePlugin.MAX_TEXT_CHUNK >> 20, PngImagePlugin.MAX_TEXT_MEMORY >> 20
        limits = "a text chunk or colour profile of over {} MiB, or over {} MiB of text in all".format(*megabytes)
        raise SampleError("bomb", f"{name}: the PNG holds {limits}: save it without metadata") from error
