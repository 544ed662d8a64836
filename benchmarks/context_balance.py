"""Attended pairs of the busiest context shard against the mean, on packed rows of a configuration's phase: dealt pieces, and plain runs of tokens.

    python benchmarks/context_balance.py --config=configs/demo.py            (make demo first)

The last phase's rows, with its mixture and with each source that holds videos alone.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

from data_pipelines.batch import Batch, map_arrays, pieces_of_shard
from data_pipelines.loading.shards import arrange, pairs_of_shards
from neo_jax.config import Config, parse_command_line
from neo_jax.training.inputs import open_run_data

ROWS = 40
SHARDS = (2, 4, 8)


def packed_rows(settings: Config, mixture: dict[str, float], count: int) -> list[Batch]:
    """The first rows of the last phase, with this mixture."""
    phase = dataclasses.replace(settings.phases[-1], mixture=mixture, steps=count, rows_per_step=1)
    reader = open_run_data(dataclasses.replace(settings, phases=(phase,))).train
    return [map_arrays(lambda array: array[0], batch) for batch, _ in reader.batches(reader.start())]


def ratios(rows: list[Batch], shards: int) -> tuple[list[float], list[float]]:
    """Busiest over mean for each row: (dealt pieces, plain runs)."""
    dealt = [pairs_of_shards(arrange(row, shards).inputs.intervals, shards) for row in rows]
    plain = [pairs_of_shards(row.inputs.intervals, shards) for row in rows]
    return [float(pairs.max() / pairs.mean()) for pairs in dealt], [float(pairs.max() / pairs.mean()) for pairs in plain]


def main(arguments: list[str]) -> None:
    settings = parse_command_line(arguments)
    with tempfile.TemporaryDirectory() as folder:  # the run's own directory stays as it is
        settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, directory=folder))
        context = settings.phases[-1].context
        mixtures = {"mixture": dict(settings.phases[-1].mixture)} | {
            name: {name: 1.0} for name in settings.phases[-1].mixture if "video" in name
        }
        for name, mixture in mixtures.items():
            rows = packed_rows(settings, mixture, ROWS)
            for shards in SHARDS:
                dealt, plain = ratios(rows, shards)
                print(
                    f"{name}, {len(rows)} rows of {context}, {shards} shards of {pieces_of_shard(context, shards)} pieces: busiest / mean "
                    f"{np.mean(dealt):.3f}, worst row {max(dealt):.3f}; plain runs {np.mean(plain):.3f}, worst row {max(plain):.3f}"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
