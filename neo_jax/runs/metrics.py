"""The metrics of a run: a JSONL file, TensorBoard files, and services by choice. A resumed run continues all of them."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.storage import write_whole
from neo_jax.runs.writers import TensorBoard, Writer


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRecord:
    """The metrics of one step: one line of metrics.jsonl. A field that is None is not written.

    Attributes:
      step: number of the step in the whole run, from 1.
      phase: name of the phase.
      tokens: number of tokens that the run has trained on up to and including this step, without padding.
      loss: training loss, in nats per label.
      gradient_norm: global norm of the gradients before clipping.
      parameter_norm: global norm of the trained parameters after the step.
      weight: sum of the weights of all labels of the step.
      learning_rate: learning rate of the step.
      source_loss: training loss of each source with labels in the step, in nats per label.
      task_loss: the same over all sources of each task (data.sources.NAME.task), if any source has one.
      heldout_loss: held-out loss of each source, in nats per label, on the steps that measured it.
      input_wait_seconds: time that the step waited for its rows.
      fill: share of the tokens of the rows that are not padding.
      epochs: how often each source's samples were read before the rows that were planned together with the step's (planner.BLOCK_ROWS).
      useful_flops: useful FLOPs of the step (training/flops.py).
      tokens_per_second: over all devices, mean of the last steps.
      mfu: model FLOPs utilisation, mean of the last steps, if the peak of the devices is known.
    """

    step: int
    phase: str
    tokens: int
    loss: float
    gradient_norm: float | None = None
    parameter_norm: float | None = None
    weight: float | None = None
    learning_rate: float | None = None
    source_loss: Mapping[str, float] = dataclasses.field(default_factory=dict)
    task_loss: Mapping[str, float] | None = None
    heldout_loss: Mapping[str, float] | None = None
    input_wait_seconds: float | None = None
    fill: float | None = None
    epochs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    useful_flops: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Any) -> StepRecord:
        """Reads what `to_json` wrote; ignores unknown fields. Raises ValueError naming a field that is missing or has a wrong type."""
        if not isinstance(values, dict):
            raise ValueError("not an object with the metrics of a step")
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if values.get(field.name) is not None}
        for name in ("step", "phase", "tokens", "loss"):
            if name not in known:
                raise ValueError(f"field {name} is missing")
        kinds = {"phase": str, "step": int, "tokens": int, "source_loss": dict, "task_loss": dict, "heldout_loss": dict, "epochs": dict}
        for name, value in known.items():
            wanted = kinds.get(name, int | float)
            numbers = value.values() if isinstance(value, dict) else ()
            if not isinstance(value, wanted) or isinstance(value, bool) or not all(isinstance(each, int | float) for each in numbers):
                raise ValueError(f"field {name} is {value!r}")
        return cls(**known)


class MetricsWriter:
    """Writes the records of steps to `metrics.jsonl` and `tensorboard/` of a run directory, and to further writers.

    Records after the step that a run resumes from are removed, since these steps will be repeated. `write` returns when the record is in both files:
    a writer with a thread of its own would lose records if the process is killed.

    Args:
      directory: the run directory.
      resumed_step: last step that is not repeated; 0 for a new run.
      more: writers beside these two; they are closed with this one.

    Attributes:
      last_step: last step that an earlier start has recorded.
    """

    def __init__(self, directory: pathlib.Path, resumed_step: int, more: Sequence[Writer] = ()):
        self.path = directory / "metrics.jsonl"
        records, problems = read_records(self.path)
        for problem in problems:
            logging.warning(problem)
        self.last_step = max((record.step for record in records), default=0)
        kept = [record for record in records if record.step <= resumed_step]
        write_whole(self.path, "".join(json.dumps(record.to_json()) + "\n" for record in kept))
        self._file = self.path.open("a", buffering=1)
        self._writers: list[Writer] = [TensorBoard(directory, resumed_step), *more]

    def write(self, record: StepRecord) -> None:
        """Appends a record. Writers get losses by source as NAME/SOURCE."""
        values = record.to_json()
        self._file.write(json.dumps(values) + "\n")
        numbers: dict[str, float] = {}
        for name, value in values.items():
            parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
            numbers |= {tag: number for tag, number in parts.items() if isinstance(number, int | float) and tag != "step"}
        self._write(record.step, numbers)

    def write_score(self, step: int, name: str, score: float) -> None:
        """Gives the score of a benchmark after a step to the writers, as benchmark/NAME; its file is the benchmark's own."""
        self._write(step, {f"benchmark/{name}": score})

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write(step, numbers)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        for writer in self._writers:
            writer.close()


def read_records(path: pathlib.Path) -> tuple[list[StepRecord], list[str]]:
    """Returns the records of a metrics.jsonl in their order, and a sentence for each line that is not a record. A missing file has no records.

    An incomplete last line, left by a process that was killed, is ignored without a sentence.
    """
    if not path.exists():
        return [], []
    records: list[StepRecord] = []
    problems: list[str] = []
    texts = path.read_bytes().split(b"\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            records.append(StepRecord.from_json(json.loads(text)))
        except json.JSONDecodeError as error:
            if number < len(texts):
                problems.append(f"{path}, line {number}: not JSON ({error}); its step is left out")
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}, line {number}: {error}; its step is left out")
    return records, problems


def finite(values: list[float | None]) -> list[float]:
    """Returns the values that are finite numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]
