"""Numbers and texts as the report writes them."""

from __future__ import annotations

import math

TEXT = 2000  # most characters of a text


def percent(share: float, digits: int = 1, unit: str = "%") -> str:
    """A share of 0 to 1 in percent. Only all is 100 and only none is 0: what lies beside them is written ">99.9" and "<0.1"."""
    text = f"{100 * share:.{digits}f}"
    least = 10.0**-digits
    if share < 1 and float(text) >= 100:
        text = f">{100 - least:.{digits}f}"
    elif share > 0 and float(text) <= 0:
        text = f"<{least:.{digits}f}"
    return text + unit


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d} min"


def short(value: float) -> str:
    """A number in at most four or five characters: 950, 12k, 3.4M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def side(max_pixels: float) -> str:
    """The side of the square with so many pixels: 160²; "text" for none."""
    return f"{math.isqrt(round(max_pixels))}²" if max_pixels else "text"


def cut(text: str, most: int = TEXT) -> str:
    """The text, or its beginning with the number of characters left out."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"
