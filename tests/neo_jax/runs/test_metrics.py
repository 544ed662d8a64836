"""Metrics go on where a run resumes: each step once, in the JSON lines and in TensorBoard's files, whatever a kill left behind."""

import json
import pathlib
import struct

from tensorboardX.proto import event_pb2

from neo_jax.runs.metrics import MetricsWriter, StepRecord, read_records


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


def record(step: int, loss: float, **more) -> StepRecord:
    return StepRecord(step=step, phase="text", tokens=10 * step, loss=loss, **more)


def test_a_resumed_run_goes_on_in_both(tmp_path):
    with MetricsWriter(tmp_path, 0) as killed:
        for step in (1, 2, 3, 4):
            killed.write(record(step, float(step), source_loss={"text": 1.0}))
        killed.write(record(5, 50.0))  # behind the checkpoint of step 4
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # cut by the kill
    with MetricsWriter(tmp_path, 4) as resumed:
        for step in (5, 6):
            resumed.write(record(step, float(step)))
    records, problems = read_records(tmp_path / "metrics.jsonl")
    assert [(each.step, each.loss) for each in records] == [(step, float(step)) for step in range(1, 7)] and not problems
    assert tensorboard_steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_step_is_on_disk_when_it_is_written(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(record(1, 1.0))
        assert tensorboard_steps(tmp_path) == [1]
        assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1


def test_a_record_comes_back_as_it_was_written(tmp_path):
    whole = record(7, 1.5, heldout_loss={"a": 2.0}, source_loss={"b": 1.0}, mfu=0.4, tokens_per_second=12.0, fill=0.99)
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(whole)
    assert read_records(tmp_path / "metrics.jsonl") == ([whole], [])
    assert "gradient_norm" not in (tmp_path / "metrics.jsonl").read_text()  # None is not written


def test_damaged_lines_are_named_and_the_others_kept(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    assert read_records(path) == ([], [])
    good = [json.dumps(record(step, 1.0).to_json()).encode() for step in (1, 6)]
    damaged = [
        b'{"step": 2, "lo',
        b"[3]",
        b"\xff",
        b'{"step": 4, "phase": "a", "tokens": 5}',
        good[0].replace(b'"loss": 1.0', b'"loss": "x"'),
    ]
    path.write_bytes(b"\n".join([good[0], *damaged, b"", good[1], b'{"step": 7, "lo']))
    records, problems = read_records(path)
    assert [each.step for each in records] == [1, 6]
    assert len(problems) == 5 and all(f"line {number}:" in problem for number, problem in zip(range(2, 7), problems, strict=True))
    assert "field loss is missing" in problems[3] and "field loss is 'x'" in problems[4]
    with MetricsWriter(tmp_path, 6):
        pass
    assert all(problem in caplog.text for problem in problems)
    assert [each.step for each in read_records(path)[0]] == [1, 6]


def test_a_last_line_without_its_end_counts_where_it_is_whole(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(record(step, 1.0).to_json()) for step in (1, 2)))
    assert read_records(tmp_path / "metrics.jsonl") == ([record(1, 1.0), record(2, 1.0)], [])
