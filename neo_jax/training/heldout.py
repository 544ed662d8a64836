"""Held-out losses: measured on the same packed rows of each held-out source every time."""

from __future__ import annotations

import jax
import numpy as np

from data_pipelines.batch import map_arrays
from neo_jax import config
from neo_jax.model.backbone import Parameters
from neo_jax.model.computation import Computation
from neo_jax.sharding import own_rows, row_shards, to_devices
from neo_jax.training.inputs import RunData
from neo_jax.training.step import LossSums, make_heldout_step


class HeldoutLosses:
    """Measures the held-out losses of one phase, on the current mesh."""

    def __init__(self, data: RunData, settings: config.Config, phase: config.Phase):
        shards = row_shards()
        rows = -(-settings.run.heldout_rows // shards) * shards  # the next multiple of the number of row shards
        own = [row for part in own_rows(rows) for row in part]
        self._names, self._batches = data.heldout_batches(phase.input(), rows, own, phase.mesh.context)
        self._step = make_heldout_step(settings.model, Computation.of(phase, settings.run.debug), len(self._names))

    def measure(self, parameters: Parameters) -> dict[str, float]:
        """Returns the loss of each held-out source in nats per label. A source without labels in these rows is left out."""
        sums: list[LossSums] = []
        for batch in self._batches:
            one = map_arrays(lambda array: array[None], batch)  # one pass of accumulation
            sums.append(jax.device_get(self._step(parameters, to_devices(one, accumulation_axis=True))))
        if not sums:
            return {}
        loss, weight = (np.sum([getattr(each, name) for each in sums], axis=0) for name in ("source_loss", "source_weight"))
        return {name: float(loss[i] / weight[i]) for i, name in enumerate(self._names) if weight[i]}
