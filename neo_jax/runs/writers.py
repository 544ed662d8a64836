"""Where the numbers of a run are written besides metrics.jsonl: TensorBoard's files, and services by choice (runs.trackers)."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2


class Writer(Protocol):
    """Takes the numbers of steps."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers of a step, by name. Called with ascending steps, but for scores, which may follow the step's losses."""

    def close(self) -> None:
        """Ends writing."""


class TensorBoard:
    """Writes `tensorboard/` of a run directory. `write` returns when the numbers are in the file: a kill loses none.

    Args:
      resumed_step: last step that is not repeated. A SessionLog event makes TensorBoard drop what earlier files say of the steps behind it.
    """

    def __init__(self, directory: pathlib.Path, resumed_step: int):
        (directory / "tensorboard").mkdir(exist_ok=True)
        # The step is part of the name, so that two starts in the same second write two files.
        self._events = EventsWriter(str(directory / "tensorboard" / "events"), f".from_{resumed_step}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=resumed_step + 1, session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        summary = summary_pb2.Summary()
        for tag, number in values.items():
            summary.value.add(tag=tag, simple_value=number)
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        self._events.flush()

    def close(self) -> None:
        self._events.close()
