"""How much of a row's pixels a process decodes that holds some of its context shards: images of which it holds a part, in visual tokens.

    python benchmarks/held_images.py

Rows of the mixture of benchmarks/packing.py at 36,864 tokens, planned and divided as in training; the text of a document lies half before and half
behind its images. With pieces about as long as an image, two or three pieces hold parts of it, which are assigned to shards by their pairs alone.
Of a clip's file the decoder reads all frames in any case; the figure counts those that are converted and resized.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

from benchmarks.packing import MIXTURE, lognormal_mixture, phase
from data_pipelines.batch import Intervals, document_intervals, row_intervals
from data_pipelines.loading.shards import piece_order
from data_pipelines.planning.planner import InputState, Planner

CONTEXT = 36_864
ROWS = 200
DIVISIONS = ((2, 2), (4, 4), (8, 8), (8, 2), (8, 4))  # context shards, processes


def images_of_row(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First tokens and sizes of a row's images, and lo, hi of its intervals as [2, L]."""
    starts, sizes, intervals, begin = [], [], [], 0
    for tokens, visual, images, _ in lengths.tolist():
        parts = np.diff(np.linspace(0, visual, images + 1).astype(int)) if images else np.zeros(0, int)
        first = (tokens - visual) // 2 + np.cumsum(parts) - parts
        intervals.append(document_intervals(tokens, first, parts))
        starts.append(begin + first)
        sizes.append(parts)
        begin += tokens
    return np.concatenate(starts), np.concatenate(sizes), np.stack(row_intervals(intervals, CONTEXT))


def share_decoded(starts: np.ndarray, sizes: np.ndarray, intervals: np.ndarray, shards: int, processes: int) -> float:
    """The visual tokens of images of which a process holds a part over all of the row, the mean of the processes."""
    order = piece_order(Intervals(*intervals), shards)
    shard_of_piece = np.empty(len(order), int)
    shard_of_piece[order] = np.arange(len(order)) * shards // len(order)
    process_of_token = np.repeat(shard_of_piece * processes // shards, CONTEXT // len(order))
    holders = [len(np.unique(process_of_token[start : start + size])) for start, size in zip(starts, sizes, strict=True)]
    return float((np.array(holders) * sizes).sum() / sizes.sum() / processes)


def main() -> None:
    sources = lognormal_mixture(CONTEXT)
    planner = Planner(0, phase(CONTEXT, MIXTURE, 8), sources, 0, InputState(0, 0, 0, (0,) * len(sources)))
    rows = [images_of_row(planner.lengths(planner.row(row))) for row in range(ROWS)]
    for shards, processes in DIVISIONS:
        shares = [share_decoded(*row, shards, processes) for row in rows]
        print(
            f"context {shards} over {processes} processes: each decodes {np.mean(shares):.0%} of a row's pixels, {max(shares):.0%} at most"
        )


if __name__ == "__main__":
    main()
