"""Metrics go on where a run resumes: each step once, in the JSON lines and in TensorBoard's files, whatever a kill left behind."""

import json
import pathlib
import struct

from tensorboardX.proto import event_pb2

from neo_jax.runs.metrics import MetricsWriter, read_lines


def tensorboard_steps(directory: pathlib.Path) -> list[int]:
    """Steps of "loss" as TensorBoard shows them: a file that starts at a step takes back what files before it say from there on."""
    steps: list[int] = []
    for path in sorted((directory / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at + 12 <= len(content):  # length (8 bytes), its checksum (4), the event, its checksum (4)
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == event_pb2.SessionLog.START:
                steps = [step for step in steps if step < event.step]
            steps += [event.step for value in event.summary.value if value.tag == "loss"]
    return steps


def test_a_resumed_run_goes_on_in_both(tmp_path):
    killed = MetricsWriter(tmp_path, 0)
    for step in (1, 2, 3, 4):
        killed.write(step, {"loss": float(step), "phase": "text", "source_loss": {"text": 1.0}})
    killed.write(5, {"loss": 50.0})  # behind the checkpoint of step 4
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # cut by the kill
    with MetricsWriter(tmp_path, 4) as resumed:
        for step in (5, 6):
            resumed.write(step, {"loss": float(step)})
    assert [(line["step"], line["loss"]) for line in read_lines(tmp_path / "metrics.jsonl")] == [
        (step, float(step)) for step in range(1, 7)
    ]
    assert tensorboard_steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    killed.__exit__()


def test_a_step_is_on_disk_when_it_is_written(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(1, {"loss": 1.0})
        assert tensorboard_steps(tmp_path) == [1]
        assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1
