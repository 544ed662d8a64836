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
    resumed = MetricsWriter(tmp_path, 4)
    for step in (5, 6):
        resumed.write(step, {"loss": float(step)})
    resumed.close()
    assert [(line["step"], line["loss"]) for line in read_lines(tmp_path / "metrics.jsonl")[0]] == [
        (step, float(step)) for step in range(1, 7)
    ]
    assert tensorboard_steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    killed.close()


def test_a_step_is_on_disk_when_it_is_written(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss": 1.0})
    assert tensorboard_steps(tmp_path) == [1]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1
    writer.close()


def test_damaged_lines_are_named_and_the_others_kept(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    assert read_lines(path) == ([], [])
    path.write_bytes(b'{"step": 1, "loss": 1.0}\n{"step": 2, "lo\n[3]\n\n\xff\n{"step": 5}\n{"step": 6, "lo')
    lines, problems = read_lines(path)
    assert [line["step"] for line in lines] == [1, 5]
    assert len(problems) == 3 and all(f"line {number}:" in problem for number, problem in zip((2, 3, 5), problems, strict=True))
    MetricsWriter(tmp_path, 5).close()
    assert all(problem in caplog.text for problem in problems)
    assert [line["step"] for line in read_lines(path)[0]] == [1, 5]


def test_a_last_line_without_its_end_counts_where_it_is_whole(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    assert read_lines(tmp_path / "metrics.jsonl") == ([{"step": 1}, {"step": 2}], [])
