"""The metrics of a run: a JSONL file and TensorBoard files; continued, not forked, when the run resumes."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from data_pipelines.storage import write_whole


class MetricsWriter:
    """Writes each step's figures to `metrics.jsonl` and `tensorboard/` of a run directory.

    Lines after the step that a run resumes from belong to steps that will be done again: they are cut off, and TensorBoard is told so. Each step
    is on disk in both when `write` returns: a writer with a thread of its own would lose some in a kill.
    """

    def __init__(self, directory: pathlib.Path, resumed_step: int):
        self.path = directory / "metrics.jsonl"
        kept = [line for line in read_lines(self.path) if line["step"] <= resumed_step]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", buffering=1)
        (directory / "tensorboard").mkdir(exist_ok=True)
        # The step in the name: two starts in the same second are two files.
        self._tensorboard = EventsWriter(str(directory / "tensorboard" / "events"), f".from_{resumed_step}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._tensorboard.write_event(event_pb2.Event(wall_time=time.time(), step=resumed_step + 1, session_log=start))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line; numbers, and one level of dictionaries of numbers, also go to TensorBoard."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        summary = summary_pb2.Summary()
        for name, value in values.items():
            parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
            for tag, number in parts.items():
                if isinstance(number, (int, float)):
                    summary.value.add(tag=tag, simple_value=number)
        self._tensorboard.write_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        self._tensorboard.flush()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._tensorboard.close()


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
