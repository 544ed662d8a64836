"""Rows of the kinds that training sees, as intervals: what the attention benchmarks run on."""

from __future__ import annotations

import numpy as np

from data_pipelines.batch import Intervals, document_intervals, row_intervals

MARK = 14  # text tokens in front of a video's frame: its time, and the two marks of an image


def _document(room: int, pieces: list[tuple[int, int]]) -> Intervals:
    """A document of (text, image) tokens in turn; what passes the `room` that its row has left is cut."""
    images, length = [], 0
    for text, image in pieces:
        images.append((length + text, min(image, room - length - text)))
        length += text + image
    images = [(start, size) for start, size in images if size > 0]
    return document_intervals(min(length, room), [start for start, _ in images], [size for _, size in images])


def _row(length: int, documents) -> Intervals:
    packed: list[Intervals] = []
    left = length
    while left > 0:
        packed.append(_document(left, next(documents)))
        left -= len(packed[-1].lo)
    return row_intervals(packed, length)


def _repeat(pieces):
    while True:
        yield pieces


def _mixed(length: int):
    """Image-text pairs, short texts, multi-image samples and clips, in about the shares of mid-training, sizes from 200 tokens to a half row."""
    rng = np.random.default_rng(0)
    while True:
        kind = rng.choice(4, p=[0.5, 0.25, 0.125, 0.125])
        image = int(np.clip(rng.lognormal(6.2, 0.6), 64, 2048))
        text = int(np.clip(rng.lognormal(5.0, 0.8), 32, 2048))
        if kind == 0:
            yield [(20, image), (text, 0)]
        elif kind == 1:
            yield [(4 * text, 0)]
        elif kind == 2:
            yield [*[(MARK, image // 2)] * int(rng.integers(2, 6)), (text, 0)]
        else:
            frames = int(rng.integers(8, 33))
            yield [*[(MARK, min(64, length // 2 // frames - MARK))] * frames, (text, 0)]


def row_kinds(length: int) -> dict[str, Intervals]:
    """Intervals [length] of each kind of row."""
    frame = max(1, int(length * 0.97) // 128 - MARK)
    return {
        "one long text": _row(length, _repeat([(length, 0)])),
        "128-frame video": _row(length, _repeat([*[(MARK, frame)] * 128, (length, 0)])),
        "1K image-text pairs": _row(length, _repeat([(20, 768), (236, 0)])),
        "mixed": _row(length, _mixed(length)),
    }
