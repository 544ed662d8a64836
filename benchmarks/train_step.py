"""Times the training step of the demo's model, jitted as the trainer runs it, on rows of the input pipeline.

    python -m benchmarks.train_step         (the step alone; `make benchmark-step` also times the same in PyTorch)

The corpus is a small one of the demo's, drawn into .cache/benchmark_step. Rows are on the device before the clock starts.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.worker import serve
from data_pipelines.batch import arrays, stack
from data_pipelines.scenes import ScenesSettings
from neo_jax.config import Config, parse_command_line
from neo_jax.demo import prepare
from neo_jax.model.computation import Computation
from neo_jax.sharding import own_rows, to_devices
from neo_jax.training.curriculum import first_state, phase_mesh
from neo_jax.training.inputs import accumulated, local_rows, open_run_data
from neo_jax.training.step import make_train_step

PHASES = ("mid_512", "sft")  # of configs/demo.py: 4 rows of 512 tokens and 2 of 1,024
STEPS = 10  # different batches, and steps whose losses are compared
SCENES = ScenesSettings(text=400, caption=60, image=200, large=60, multi=100, video=100, held_out=4)
CPU_DEVICES = 2  # virtual ones, as `make demo` uses
FOLDER = pathlib.Path(".cache/benchmark_step")
DEMO_FOLDER = "runs/demo"  # what configs/demo.py writes into


def phase_settings(phase: str, folder: pathlib.Path) -> Config:
    """Returns the demo's configuration with one phase alone, and with everything that it reads and writes in `folder`."""
    settings = parse_command_line(["--config=configs/demo.py"]).resolved()
    settings = json.loads(json.dumps(settings).replace(f'"{DEMO_FOLDER}/', f'"{folder}/'))
    settings["phases"] = {phase: settings["phases"][phase]}
    settings["curriculum"] = [phase]
    return Config.from_config_dict(settings)


def rates(peak: float) -> np.ndarray:
    """[STEPS] float32 learning rates that rise to `peak`, as in a warm-up."""
    return (peak * np.arange(1, STEPS + 1) / STEPS).astype(np.float32)


class Step:
    """The step of one phase after STEPS steps, with the batches it ran on.

    Attributes:
      name: the phase's number of tokens a row, as text.
      record: what another implementation needs to repeat the steps, as arrays by name: settings (JSON), learning_rate [STEPS], losses [STEPS],
        parameters/NAME before the first step, batch/NAME [STEPS, rows, ...] (arrays of data_pipelines.batch.Batch).
    """

    def __init__(self, settings: Config):
        (phase,) = settings.phases
        self.name = str(phase.context)
        self._mesh = phase_mesh(phase)
        loader = open_run_data(settings).train
        with jax.set_mesh(self._mesh):
            rows = local_rows(phase.rows_per_step, phase.accumulate, own_rows(phase.rows_per_step // phase.accumulate))
            with contextlib.closing(loader.batches(loader.start(), rows)) as batches:
                host = [accumulated(batch, phase.accumulate) for batch, _ in itertools.islice(batches, STEPS)]
            self._batches = [to_devices(batch, accumulation_axis=True) for batch in host]
            self._step = make_train_step(settings.model, Computation.of(phase), settings.optimizer, len(settings.data.sources))
            self._state = first_state(settings)
        numbers = rates(phase.learning_rate)
        self._rate = numbers[-1]
        self.record = {"settings": np.array(json.dumps(settings.resolved())), "learning_rate": numbers}
        self.record |= {f"parameters/{name}": np.asarray(value) for name, value in self._state.parameters.items()}
        self.record |= {f"batch/{name}": array[:, 0] for name, array in arrays(stack(host))}
        self.record["losses"] = np.array(self._run(self._batches, numbers), np.float64)

    def _run(self, batches, numbers) -> list[float]:
        losses = []
        with jax.set_mesh(self._mesh):
            for batch, rate in zip(batches, numbers, strict=True):
                self._state, metrics = self._step(self._state, batch, rate)
                losses.append(metrics.loss)
        return [float(loss) for loss in jax.device_get(losses)]

    def seconds(self, steps: int) -> float:
        """Returns the time of `steps` steps on the batches in turn, at the last learning rate."""
        batches = list(itertools.islice(itertools.cycle(self._batches), steps))
        start = time.perf_counter()
        self._run(batches, [self._rate] * steps)
        return time.perf_counter() - start


def make_steps(folder: pathlib.Path = FOLDER) -> list[Step]:
    """Draws the corpus where it is missing and runs the first STEPS steps of each phase."""
    prepare(folder / "corpus", SCENES)
    return [Step(phase_settings(phase, folder)) for phase in PHASES]


def main(arguments: list[str]) -> None:
    jax.config.update("jax_num_cpu_devices", CPU_DEVICES)
    steps = make_steps()
    if arguments == ["--serve"]:
        for step in steps:
            np.savez(FOLDER / f"step_{step.name}.npz", **step.record)
        timers: dict[str, Callable[[int], float]] = {step.name: step.seconds for step in steps}
        return serve(timers)
    for step in steps:
        times = [step.seconds(STEPS) / STEPS * 1e3 for _ in range(5)]
        print(f"{step.name} tokens a row: {min(times):.0f} ms a step (median {statistics.median(times):.0f}, 5 rounds of {STEPS} steps)")


if __name__ == "__main__":
    main(sys.argv[1:])
