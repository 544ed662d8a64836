"""Pixels as a viewer shows them: greys scaled to 8 bits, transparency over white, turned upright. Used by images and clips."""

from __future__ import annotations

import struct
import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin

# What happens to a picture beside decoding it, as the length index counts it. The index stores positions in this tuple: append only.
CONVERSIONS = ("grey_16_bit", "grey_32_bit", "grey_float", "transparency", "orientation", "rotation", "pixel_aspect")
_WHITE = 255

# A photo with damaged EXIF data is a good photo, of no orientation: nothing to warn of.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)


class Orientation(NamedTuple):
    """How stored pixels become upright: rows and columns exchanged first, then rows and columns reversed."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return (width, height) if self.transposed else (height, width)

    def turn(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[H, W, ...] to the upright picture, contiguous."""
        turned = pixels.swapaxes(0, 1) if self.transposed else pixels
        turned = turned[::-1] if self.rows_reversed else turned
        turned = turned[:, ::-1] if self.columns_reversed else turned
        return np.ascontiguousarray(turned)


UPRIGHT = Orientation()
_EXIF_ORIENTATIONS = {  # Exif 2.32, tag 0x0112
    2: Orientation(columns_reversed=True),
    3: Orientation(rows_reversed=True, columns_reversed=True),
    4: Orientation(rows_reversed=True),
    5: Orientation(transposed=True),
    6: Orientation(transposed=True, columns_reversed=True),
    7: Orientation(transposed=True, rows_reversed=True, columns_reversed=True),
    8: Orientation(transposed=True, rows_reversed=True),
}


def exif_orientation(image: Image.Image) -> Orientation:
    """The orientation in an image's header. Damaged EXIF data is no orientation, as in viewers.

    Pillow's getexif is not used: for PNG it decodes the pixels, and what it finds then is not what it finds in the header.
    """
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            tag = image.tag_v2.get(ExifTags.Base.Orientation)
        else:
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
            tag = exif.get(ExifTags.Base.Orientation)
    except Exception:  # the parser raises SyntaxError, struct.error, ValueError and more on foreign bytes
        return UPRIGHT
    return _EXIF_ORIENTATIONS.get(tag, UPRIGHT) if isinstance(tag, int) else UPRIGHT


def pending_orientation(image: Image.Image) -> Orientation:
    """The orientation that decoding has still to apply: Pillow turns a TIFF itself and gives its upright size."""
    return UPRIGHT if isinstance(image, TiffImagePlugin.TiffImageFile) else exif_orientation(image)


def display_orientation(matrix: bytes | None) -> Orientation:
    """The orientation of a clip's display matrix: nine int32 in the machine's byte order, as FFmpeg gives them.

    A point (x, y) is shown at (a x + c y, b x + d y), where the matrix begins a, b, _, c, d. Other angles than multiples of 90 degrees
    become the nearest multiple.
    """
    if matrix is None or len(matrix) != 36:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)


def image_conversions(image: Image.Image) -> tuple[str, ...]:
    """Those of CONVERSIONS that an image needs, from its header: whether they are applied is the policy's matter."""
    found = []
    if image.mode.startswith("I;16") or _is_16_bit(image):
        found.append("grey_16_bit")
    elif image.mode == "I":
        found.append("grey_32_bit")
    elif image.mode == "F":
        found.append("grey_float")
    if image.has_transparency_data:
        found.append("transparency")
    if exif_orientation(image) != UPRIGHT:
        found.append("orientation")
    return tuple(found)


def decode_image(image: Image.Image) -> npt.NDArray[np.uint8]:
    """[H, W, 3] RGB of an opened image, turned upright. Raises what Pillow's decoders raise on damaged data."""
    orientation = pending_orientation(image)  # of the header, as the size in the index
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        grey = to_8_bits(values, 65535 if image.mode.startswith("I;16") or _is_16_bit(image) else None)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[values == transparent] = _WHITE
        rgb = np.repeat(grey[..., None], 3, axis=2)
    elif image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        rgb = over_white(np.asarray(straight.convert("RGBA")))
    else:
        rgb = np.asarray(image.convert("RGB"))
    return orientation.turn(rgb)


def to_8_bits(values: npt.NDArray[Any], top: int | None = None) -> npt.NDArray[np.uint8]:
    """Grey values to 0 .. 255, rounded: [0, top] is stretched over them.

    Without `top` it is the least of 1 (floats only), 255 and 65535 that holds all values. Values that no such range holds (negative or
    larger ones) are stretched from their own minimum to their own maximum. What is not finite becomes black.
    """
    numbers = values.astype(np.float32)
    numbers[~np.isfinite(numbers)] = 0
    low, high = float(numbers.min()), float(numbers.max())
    if top is None:
        ranges = (1, 255, 65535) if np.issubdtype(values.dtype, np.floating) else (255, 65535)
        top = next((limit for limit in ranges if low >= 0 and high <= limit), None)
    if top is not None:
        low, high = 0.0, float(top)
    numbers -= low
    numbers /= (high - low) or 1.0
    numbers *= 255
    return np.rint(numbers, out=numbers).astype(np.uint8)


def over_white(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[H, W, 4] with straight alpha to [H, W, 3] over a white background."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + _WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)


def _is_16_bit(image: Image.Image) -> bool:
    """Pillow gives the 16-bit greys of a PPM file, scaled to 65535, the mode of 32-bit ones."""
    return image.mode == "I" and image.format == "PPM"
