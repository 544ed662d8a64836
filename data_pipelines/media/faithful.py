"""Converts pixels as a viewer shows them: greys scaled to 8 bits, transparency over white, rotated upright. Used by images and clips."""

from __future__ import annotations

import struct
import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin

# Conversions in addition to decoding, which the length index counts. The index stores positions in this tuple: append only.
CONVERSIONS = ("grey_16_bit", "grey_32_bit", "grey_float", "transparency", "orientation", "rotation", "pixel_aspect")
_WHITE = 255

# A photo with damaged EXIF data is usable and has no orientation, so no warning is needed.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)


class Orientation(NamedTuple):
    """The transform from stored to upright pixels: first rows and columns are transposed, then rows and columns are reversed."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns (height, width) of the upright picture."""
        return (width, height) if self.transposed else (height, width)

    def turn(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Transforms [H, W, ...] to the upright picture, a contiguous array."""
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
    """Returns the orientation in an image's header; UPRIGHT for damaged EXIF data, as in viewers.

    Pillow's getexif is not used: for PNG it decodes the pixels, and the result then differs from that of the header alone.
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
    """Returns the orientation to apply after Pillow's decoding. Pillow itself rotates a TIFF and reports its upright size."""
    return UPRIGHT if isinstance(image, TiffImagePlugin.TiffImageFile) else exif_orientation(image)


def display_orientation(matrix: bytes | None) -> Orientation:
    """Returns the orientation of a clip's display matrix: nine int32 in the machine's byte order, as FFmpeg provides them.

    A point (x, y) is shown at (a x + c y, b x + d y); the matrix begins a, b, _, c, d. Angles are rounded to the nearest multiple of 90
    degrees.
    """
    if matrix is None or len(matrix) != 36:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)


def image_conversions(image: Image.Image) -> tuple[str, ...]:
    """Returns those of CONVERSIONS that an image needs, from its header. The picture policy decides whether they are applied."""
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
    """Decodes an opened image to upright RGB [H, W, 3]. Damaged data raises the exceptions of Pillow's decoders."""
    orientation = pending_orientation(image)  # from the header, as the size in the index
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
    """Scales grey values from [0, top] to 0 .. 255 and rounds them.

    Without `top`, it is the smallest of 1 (floats only), 255 and 65535 such that [0, top] contains all values. If there is none (negative or
    larger values), values are scaled from their own minimum and maximum. Values that are not finite are first set to 0.
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
    """Composites [H, W, 4] with straight alpha over a white background, to [H, W, 3]."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + _WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)


def _is_16_bit(image: Image.Image) -> bool:
    """Returns whether a 32-bit mode holds 16-bit greys: Pillow gives the 16-bit greys of a PPM file, scaled to 65535, the mode "I"."""
    return image.mode == "I" and image.format == "PPM"
