"""Formats numbers and texts for the report."""

from __future__ import annotations

import math

TEXT = 2000  # largest number of characters of a text


def percent(share: float, digits: int = 1, unit: str = "%") -> str:
    """Formats a share from 0 to 1 in percent. Shares that would be rounded to 0 or 100, but are not, become "<0.1" or ">99.9"."""
    text = f"{100 * share:.{digits}f}"
    least = 10.0**-digits
    if share < 1 and float(text) >= 100:
        text = f">{100 - least:.{digits}f}"
    elif share > 0 and float(text) <= 0:
        text = f"<{least:.{digits}f}"
    return text + unit


def duration(seconds: float) -> str:
    """Formats a duration as hours and minutes, or as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d} min"


def short(value: float) -> str:
    """Formats a number in at most five characters: 950, 12k, 3.4M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def side(max_pixels: float) -> str:
    """Formats a number of pixels as the side of a square, such as 160²; "text" for 0."""
    return f"{math.isqrt(round(max_pixels))}²" if max_pixels else "text"


def cut(text: str, most: int = TEXT) -> str:
    """Returns the text; if it is too long, its beginning and the number of further characters."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"
