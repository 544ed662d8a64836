"""Drawings of a page of `inspect` as SVG text (rows as strips, masks, histograms), and thumbnails of the model's input images."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_pipelines.batch import Batch
from data_pipelines.schema import VISUAL_TOKEN_SIDE

COLOURS = ("#4269d0", "#efb118", "#3ca951", "#ff725c", "#a463f2", "#97bbf5", "#9c6b4e", "#ff8ab7", "#6cc5b0", "#9498a0")
WIDTH = 1000.0  # width of a strip, which is the whole context, in SVG units
MASK_SIDE = 180.0
MASK_POINTS = 360  # largest number of queries of a mask that are drawn
THUMBNAIL = 160  # pixels of the longer side


def colour(number: int) -> str:
    """Returns the colour of source `number`."""
    return COLOURS[number % len(COLOURS)]


def strip(batch: Batch, documents: Sequence[tuple[int, int, str]], label: str) -> str:
    """Draws a row as a strip: documents in the colour of their source, below them image tokens and labels; the rest is padding.

    Args:
      batch: one row.
      documents: (start, number of tokens, title) of each document.
      label: description of the drawing for screen readers.
    """
    context = len(batch.source)
    scale = WIDTH / context
    parts = [f'<rect class="padding" width="{WIDTH:g}" height="20"/>']
    for start, length, title in documents:
        shape = f'x="{start * scale:.2f}" width="{length * scale:.2f}" height="20" fill="{colour(int(batch.source[start]))}"'
        parts.append(f'<rect class="document" {shape}><title>{html.escape(title)}</title></rect>')
    for mask, y, kind in ((batch.inputs.visual_slot >= 0, 24, "image"), (batch.loss_weights > 0, 34, "labels")):
        for start, end in runs(mask):
            parts.append(f'<rect class="{kind}" x="{start * scale:.2f}" y="{y}" width="{max((end - start) * scale, 0.6):.2f}" height="7"/>')
    return f'<svg class="strip" viewBox="0 0 {WIDTH:g} 42" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'


def mask(batch: Batch, label: str) -> str:
    """Draws the intervals of a row: queries downwards, and for each the keys it attends to. Images appear as squares, text as triangles."""
    lo, hi = batch.inputs.intervals
    context = len(lo)
    queries = np.unique(np.linspace(0, context - 1, MASK_POINTS).astype(int))
    scale = MASK_SIDE / context
    left = [f"{lo[q] * scale:.1f},{q * scale:.1f}" for q in queries]
    right = [f"{hi[q] * scale:.1f},{q * scale:.1f}" for q in queries[::-1]]
    return (
        f'<svg class="mask" viewBox="0 0 {MASK_SIDE:g} {MASK_SIDE:g}" role="img" aria-label="{html.escape(label)}">'
        f'<rect class="frame" width="{MASK_SIDE:g}" height="{MASK_SIDE:g}"/><polygon points="{" ".join(left + right)}"/></svg>'
    )


def histogram(values: npt.NDArray[np.float64], title: str, unit: str, bins: int = 40) -> str:
    """Draws a histogram with the smallest, largest, median and mean value in its caption; only a caption if there are no values."""
    if not len(values):
        return f'<figure class="histogram"><figcaption>{html.escape(title)}: none</figcaption></figure>'
    counts, edges = np.histogram(values, bins=min(bins, max(1, len(np.unique(values)))))
    width, heights = 300 / len(counts), 76 * counts / counts.max()
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{80 - height:.1f}" width="{max(width - 1, 0.5):.1f}" height="{height:.1f}">'
        f"<title>{edges[i]:,.4g} to {edges[i + 1]:,.4g} {html.escape(unit)}: {count:,}</title></rect>"
        for i, (count, height) in enumerate(zip(counts.tolist(), heights.tolist(), strict=True))
    )
    told = f"{title}: {values.min():,.4g} to {values.max():,.4g} {unit}, median {np.median(values):,.4g}, mean {values.mean():,.4g}"
    return (
        f'<figure class="histogram"><svg viewBox="0 0 300 82" role="img" aria-label="{html.escape(told)}">{bars}</svg>'
        f"<figcaption>{html.escape(told)}</figcaption></figure>"
    )


def runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Returns (start, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def thumbnail(visual: npt.NDArray[np.uint8], rows: int, columns: int) -> str:
    """Returns an image in the model's input resolution, reduced to a thumbnail, as an `img` element.

    Args:
      visual: [rows x columns, 3072] visual tokens of the image.
    """
    side = VISUAL_TOKEN_SIDE
    pixels = visual.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    size = f"{columns * side} x {rows * side} pixels, {rows * columns} visual tokens"
    return f'<img alt="{size}" title="{size}" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
