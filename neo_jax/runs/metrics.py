"""The metrics of a run: a JSONL file and TensorBoard files; continued, not forked, when the run resumes."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from data_pipelines.storage import write_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One line of metrics.jsonl: the metrics of a step. A field that is None is not written.

    Attributes:
      step: over the whole run; the first is 1.
      phase: its name.
      tokens: trained on up to and with this step, padding left out.
      loss: training loss, nats a label.
      gradient_norm: global norm before clipping.
      parameter_norm: global norm of the trained parameters after the step.
      weight: of all labels of the step.
      learning_rate: of the step.
      source_loss: training loss of each source with labels in the step.
      heldout_loss: held-out loss of each source, on the steps that measured it.
      input_wait_seconds: that the step waited for its rows.
      fill: share of the rows' tokens that are not padding.
      epochs: how often each source's samples were read before the rows that were planned together with the step's (planner.BLOCK_ROWS).
      useful_flops: that the step needed (training/flops.py).
      tokens_per_second: of all devices, over the last steps.
      mfu: model FLOPs utilisation over the last steps, where the device's peak is known.
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
        """Raises ValueError naming the field that is missing or of a wrong type. Fields that are not known are left out."""
        if not isinstance(values, dict):
            raise ValueError("not an object with the metrics of a step")
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if values.get(field.name) is not None}
        for name in ("step", "phase", "tokens", "loss"):
            if name not in known:
                raise ValueError(f"field {name} is missing")
        kinds = {"phase": str, "step": int, "tokens": int, "source_loss": dict, "heldout_loss": dict, "epochs": dict}
        for name, value in known.items():
            wanted = kinds.get(name, int | float)
            numbers = value.values() if isinstance(value, dict) else ()
            if not isinstance(value, wanted) or isinstance(value, bool) or not all(isinstance(each, int | float) for each in numbers):
                raise ValueError(f"field {name} is {value!r}")
        return cls(**known)


class MetricsWriter:
    """Writes each step's record to `metrics.jsonl` and `tensorboard/` of a run directory.

    Lines of steps after the one that a run resumes from are removed, since these steps are taken again; TensorBoard is told so. When `write`
    returns, the step is on disk in both: a writer with a thread of its own would lose steps when it is killed.
    """

    def __init__(self, directory: pathlib.Path, resumed_step: int):
        self.path = directory / "metrics.jsonl"
        records, problems = read_records(self.path)
        for problem in problems:
            logging.warning(problem)
        kept = [record for record in records if record.step <= resumed_step]
        write_whole(self.path, "".join(json.dumps(record.to_json()) + "\n" for record in kept))
        self._file = self.path.open("a", buffering=1)
        (directory / "tensorboard").mkdir(exist_ok=True)
        # The step in the name: two starts in the same second are two files.
        self._tensorboard = EventsWriter(str(directory / "tensorboard" / "events"), f".from_{resumed_step}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._tensorboard.write_event(event_pb2.Event(wall_time=time.time(), step=resumed_step + 1, session_log=start))

    def write(self, record: StepRecord) -> None:
        """Adds a line; its numbers go to TensorBoard too, losses by source as NAME/SOURCE."""
        values = record.to_json()
        self._file.write(json.dumps(values) + "\n")
        summary = summary_pb2.Summary()
        for name, value in values.items():
            parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
            for tag, number in parts.items():
                if isinstance(number, (int, float)) and tag != "step":
                    summary.value.add(tag=tag, simple_value=number)
        self._tensorboard.write_event(event_pb2.Event(wall_time=time.time(), step=record.step, summary=summary))
        self._tensorboard.flush()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._tensorboard.close()


def read_records(path: pathlib.Path) -> tuple[list[StepRecord], list[str]]:
    """The records of a metrics.jsonl in their order, and a sentence for each line that is none. No records where there is no file.

    A last line without its end is what a kill cut short: it was not written, and is left out without a sentence.
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
                problems.append(f"{path}, line {number}: not JSON ({error}); the step that it was written for is left out")
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}, line {number}: {error}; the step that it was written for is left out")
    return records, problems


def finite(values: list[float | None]) -> list[float]:
    """The values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]
