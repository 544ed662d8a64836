"""Weights & Biases and MLflow as further writers of a run's numbers (run.trackers). Their packages are imported only if they are named.

A service must not hold up or end a run: a thread hands the numbers over, what fails is counted and reported once, and numbers are dropped while the
service takes none. metrics.jsonl has all of them. The service's id of the run stays in trackers.json of the run directory, so that the next start
goes on there. Where the services are is said by their own environment variables (docs/observe.md).
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import pathlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.storage import write_whole
from neo_jax.config import ConfigError
from neo_jax.config.changes import flat
from neo_jax.runs.writers import Writer

NAME = "trackers.json"
PROJECT = "neo_jax"  # unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME says otherwise
WAITING = 10_000  # numbers of steps that wait for a service; further ones are dropped
CLOSE_SECONDS = 5.0  # for handing over the rest at the end
PARAMETERS, LONGEST = 100, 500  # of MLflow: parameters of one request, and characters of a value (servers before 2.8 take no more)

logger = logging.getLogger(__name__)


def check_trackers(names: Sequence[str]) -> None:
    """Raises ConfigError if the package of a tracker is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            [
                f"run.trackers: the package of {name} is not installed: pip install --no-deps -r requirements-tracking.txt, or leave it out"
                for name in missing
            ]
        )


def open_trackers(names: Sequence[str], directory: pathlib.Path, configuration: Mapping[str, Any]) -> list[Writer]:
    """Returns a writer for each tracker.

    Args:
      names: of OPENED.
      directory: the run directory.
      configuration: the resolved one, which the service shows with the run.
    """
    return [Tracker(name, functools.partial(OPENED[name], directory, configuration)) for name in names]


class Tracker:
    """Hands numbers to a service in a thread of its own.

    Args:
      name: for messages.
      opened: connects to the service; called in the thread.
    """

    def __init__(self, name: str, opened: Callable[[], Writer]):
        self._name, self._opened = name, opened
        self._waiting: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(WAITING)
        self.lost = 0  # how many were not handed over
        self._warned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        try:
            self._waiting.put_nowait((step, dict(values)))
        except queue.Full:
            self._fail("it takes nothing", 1)

    def close(self) -> None:
        try:
            self._waiting.put(None, timeout=CLOSE_SECONDS)
            self._thread.join(CLOSE_SECONDS)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self.lost += self._waiting.qsize()
            logger.warning("%s did not take the last numbers within %.0f s; metrics.jsonl has them", self._name, CLOSE_SECONDS)
        elif self.lost:
            logger.warning("%s did not take the numbers of %d steps; metrics.jsonl has them", self._name, self.lost)

    def _run(self) -> None:
        writer = None
        try:
            writer = self._opened()
        except Exception as error:  # the service may raise anything
            self._fail(error, 0)
        for step, values in iter(self._waiting.get, None):
            try:
                if writer is None:
                    raise RuntimeError("it was not reached when the run started")
                writer.write(step, values)
            except Exception as error:
                self._fail(error, 1)
        try:
            if writer is not None:
                writer.close()
        except Exception as error:
            self._fail(error, 0)

    def _fail(self, error: object, lost: int) -> None:
        self.lost += lost
        if not self._warned:
            self._warned = True
            logger.warning("%s fails (%s): the run goes on, and further failures are only counted", self._name, error)


class WeightsAndBiases:
    """A run of Weights & Biases. Steps that it has already are ignored by it: a resumed run repeats them with equal numbers."""

    def __init__(self, directory: pathlib.Path, configuration: Mapping[str, Any]):
        import wandb

        name = _known(directory, "wandb") or uuid.uuid4().hex[:16]
        _remember(directory, "wandb", name)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=name,
            name=directory.name,
            dir=directory,
            config=dict(configuration),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow; the configuration is in its parameters."""

    def __init__(self, directory: pathlib.Path, configuration: Mapping[str, Any]):
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, mlflow.MlflowClient()
        name = _known(directory, "mlflow")
        if name is None:
            wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(wanted)
            experiment = found.experiment_id if found else self._client.create_experiment(wanted)
            name = self._client.create_run(experiment, run_name=directory.name).info.run_id
            _remember(directory, "mlflow", name)
            parameters = [Param(key, text) for key, text in _texts(configuration)]
            for first in range(0, len(parameters), PARAMETERS):
                self._client.log_batch(name, params=parameters[first : first + PARAMETERS])
        else:
            self._client.update_run(name, status="RUNNING")
        self._name = name

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._name, metrics=[self._metric(key, value, now, step) for key, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._name)


OPENED: dict[str, Callable[[pathlib.Path, Mapping[str, Any]], Writer]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def _texts(configuration: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in flat(configuration).items():
        yield key, json.dumps(value)[:LONGEST]


def _ids(directory: pathlib.Path) -> dict[str, str]:
    try:
        values = json.loads((directory / NAME).read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _known(directory: pathlib.Path, tracker: str) -> str | None:
    return _ids(directory).get(tracker)


_writing = threading.Lock()  # trackers open in threads of their own


def _remember(directory: pathlib.Path, tracker: str, name: str) -> None:
    with _writing:
        write_whole(directory / NAME, json.dumps(_ids(directory) | {tracker: name}) + "\n")
