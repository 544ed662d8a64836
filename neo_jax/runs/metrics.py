"""The metrics of a run: a JSONL file and TensorBoard files; continued, not forked, when the run resumes."""

from __future__ import annotations

import json
import logging
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
        lines, problems = read_lines(self.path)
        for problem in problems:
            logging.warning(problem)
        kept = [line for line in lines if line["step"] <= resumed_step]
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

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()


def read_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of a metrics.jsonl in their order, and a sentence for each damaged one. No lines where there is no file.

    A last line without its end is what a kill cut short: it was not written, and is left out without a sentence.
    """
    if not path.exists():
        return [], []
    lines: list[dict[str, Any]] = []
    problems: list[str] = []
    texts = path.read_bytes().split(b"\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            if number == len(texts):
                break
            problems.append(f"{path}, line {number}: not JSON ({error}); the step that it was written for is left out")
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
        else:
            problems.append(f"{path}, line {number}: not an object with a step; it is left out")
    return lines, problems
