"""Rows planned from made lengths: fill, balance of attended pairs over data shards, what a sample weighs, samples planned a second.

    python benchmarks/packing.py benchmarks/results/packing.json

Mixtures: text, pictures, several pictures and clips of lognormal lengths, as in mid-training, at 8K, 16K and 36K; and lengths like the demo's at 512.
`busiest` is the sum over steps of the busiest data shard's pairs over the sum of the mean shard's: how much longer attention takes than if all
were equal. `random_order` is the same for the same rows in random order: what grouping gains. `weight` is what a sample of each fifth by length
weighs on average in the loss, where each sample's labels weigh 1 in all and a step's loss is divided by its weights; 1 in a run of huge steps.
"""

from __future__ import annotations

import json
import pathlib
import platform
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

from data_pipelines.planning.balance import document_pairs
from data_pipelines.planning.planner import BLOCK_ROWS, InputState, Planner
from data_pipelines.schema import PhaseSettings
from data_pipelines.storage import write_whole

Numbers = npt.NDArray[np.int64]

SAMPLES = 40_000  # of a source
ROWS_PER_STEP = (8, 16, 64)
SHARDS = (2, 4, 8, 16)
BLOCKS = 2
ROUNDS = 3  # of which the fastest counts
MIXTURE = {"text": 2.0, "picture": 4.0, "pictures": 1.0, "clip": 1.0}
DEMO_MIXTURE = {"text": 0.8, "image": 2.5, "large": 0.6, "multi": 2.0, "video": 2.8}
MARK = 14  # text tokens of a frame: its time, and the two marks of an image


class MadeLengths:
    """Lengths of a source: [n, 4] tokens, visual tokens, images, segments."""

    max_epochs = 0.0

    def __init__(self, name: str, text: npt.ArrayLike, visual: npt.ArrayLike = 0, images: npt.ArrayLike = 0):
        columns = np.broadcast_arrays(np.asarray(text) + visual, visual, images, 1)
        self.name, self._lengths = name, np.stack(columns, axis=1).astype(np.int64)
        self.usable = np.arange(len(self._lengths))

    def lengths(self, phase: PhaseSettings, seed: int) -> Numbers:
        return self._lengths


def lognormal_mixture(context: int) -> list[MadeLengths]:
    """Sources named in MIXTURE; clips have more frames where the context is longer."""
    random = np.random.default_rng(0)

    def lognormal(mean: float, sigma: float, low: int, high: int) -> Numbers:
        return np.clip(random.lognormal(mean, sigma, SAMPLES), low, high).astype(np.int64)

    text = lognormal(6.0, 1.0, 16, 1 << 30)
    picture, answer = lognormal(6.5, 0.7, 64, 8192), lognormal(5.0, 0.8, 8, 4096)
    count = random.integers(2, 6, SAMPLES)
    frames = lognormal(3.2, 0.8, 4, context // 256)
    frame = np.minimum(random.choice([64, 100, 144, 196, 256], SAMPLES), context * 3 // 4 // frames)
    return [
        MadeLengths("text", text),
        MadeLengths("picture", answer + 2, picture, 1),
        MadeLengths("pictures", answer + 2 * count, lognormal(6.5, 0.7, 64, 8192) // 2 * count, count),
        MadeLengths("clip", answer + MARK * frames, frames * frame, frames),
    ]


def demo_mixture() -> list[MadeLengths]:
    """Sources named in DEMO_MIXTURE, three or four samples a row of 512."""
    random = np.random.default_rng(0)
    bounds = {"text": (39, 266, 0), "image": (47, 208, 1), "large": (44, 210, 1), "multi": (71, 148, 3), "video": (134, 238, 4)}
    return [MadeLengths(name, random.integers(low, high, 1500), 9 * images, images) for name, (low, high, images) in bounds.items()]


def phase(context: int, mixture: dict[str, float], rows_per_step: int) -> PhaseSettings:
    rows = BLOCKS * BLOCK_ROWS
    visual = context - 1024 if context > 1024 else context // 2
    return PhaseSettings(
        "made", rows, context, visual, 512, 512, 65_536, 1 << 24, 128, (1.0, 4.0), 1 << 18, mixture, rows_per_step=rows_per_step
    )


def busiest(pairs: Numbers, rows_per_step: int, shards: int) -> float:
    """Pairs of the busiest shard of each step over those of the mean shard, summed over steps."""
    each = pairs.reshape(-1, shards, rows_per_step // shards).sum(axis=2)
    return float(each.max(axis=1).sum() / each.mean(axis=1).sum())


def weights_by_length(rows: list[Numbers], rows_per_step: int) -> list[float]:
    """The mean weight of a sample in each fifth of all by tokens, the shortest first."""
    counts = np.array([len(row) for row in rows])
    of_step = counts.reshape(-1, rows_per_step).sum(axis=1)
    weight = np.repeat(np.repeat(of_step.mean() / of_step, rows_per_step), counts)
    tokens = np.concatenate(rows)[:, 0]
    return [round(float(fifth.mean()), 3) for fifth in np.array_split(weight[np.argsort(tokens, kind="stable")], 5)]


def measure(settings: PhaseSettings, sources: list[MadeLengths]) -> dict[str, Any]:
    seconds = []
    for _ in range(ROUNDS):
        planner = Planner(0, settings, sources, 0, InputState(0, 0, 0, (0,) * len(sources)))
        began = time.process_time()
        for block in range(BLOCKS):
            planner.row(block * planner.block_rows)
        seconds.append(time.process_time() - began)
    rows = [planner.lengths(planner.row(row)) for row in range(settings.rows)]
    totals = np.array([row.sum(axis=0) for row in rows])
    pairs = np.array([document_pairs(row).sum() for row in rows]) + settings.context - totals[:, 0]
    shuffled = np.random.default_rng(1).permutation(pairs)
    shards = [count for count in SHARDS if count <= settings.rows_per_step]
    return {
        "context": settings.context,
        "rows_per_step": settings.rows_per_step,
        "samples_a_row": round(sum(map(len, rows)) / len(rows), 1),
        "token_fill": round(float(totals[:, 0].mean()) / settings.context, 4),
        "visual_fill": round(float(totals[:, 1].mean()) / settings.visual_tokens, 4),
        "samples_per_second": round(sum(map(len, rows)) / min(seconds)),
        "busiest": {count: round(busiest(pairs, settings.rows_per_step, count), 4) for count in shards},
        "random_order": {count: round(busiest(shuffled, settings.rows_per_step, count), 4) for count in shards},
        "weight": weights_by_length(rows, settings.rows_per_step),
    }


def main(arguments: list[str]) -> None:
    cases = [("lognormal", context, MIXTURE, lognormal_mixture(context)) for context in (8192, 16_384, 36_864)]
    cases.append(("demo", 512, DEMO_MIXTURE, demo_mixture()))
    results = []
    for name, context, mixture, sources in cases:
        for rows_per_step in ROWS_PER_STEP:
            results.append({"mixture": name, **measure(phase(context, mixture, rows_per_step), sources)})
            print(json.dumps(results[-1]), flush=True)
    if arguments:
        versions = {"python": platform.python_version(), "numpy": np.__version__}
        command = "python benchmarks/packing.py benchmarks/results/packing.json"
        report = {"command": command, "versions": versions, "samples": SAMPLES, "rows": BLOCKS * BLOCK_ROWS, "results": results}
        write_whole(pathlib.Path(arguments[0]), json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
